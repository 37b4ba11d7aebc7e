"""Residual sums that go into the norm after them: which layers do, and what keeps them apart."""

import inspect
import linecache

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.patch.installed import standing
from liger_jit.patch.rules.add_norm import add_and_norm
from liger_jit.patch.rules.add_norm_source import (
    norms_after_sums,
    rewritten,
    rewritten_definition,
    sums_of_code,
)
from liger_jit.patch.rules.proved_norm import norm_of
from liger_jit.patch.source.definition import innermost
from tiny_models import FAMILIES, assert_same_step, batch, build, counted, loss_and_gradients
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def layer_rows(handle):
    return [row for row in handle.report() if row.module.endswith("DecoderLayer")]


def sums(model, monkeypatch):
    """(step, how many sums went into a norm)."""
    with counted(monkeypatch) as calls:
        step = loss_and_gradients(model)
    return step, calls["fused_add_rms_norm"]


@pytest.mark.parametrize("family", [*FAMILIES, "Gemma2", "Gemma3"])
def test_each_layer_fuses_one_sum(family, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model)
    handle = patch(model, fused_linear_cross_entropy=False)
    assert [(row.role, row.status) for row in layer_rows(handle)] == [
        ("fused_add_rms_norm", "patched")
    ] * 2
    found, count = sums(model, monkeypatch)
    assert count == 2
    assert_same_step(found, expected)


def test_the_sum_is_the_operators_own(monkeypatch):
    """With an operator that adds wrongly the result is wrong: nothing else adds."""
    model = build()
    expected = loss_and_gradients(model)
    patch(model)
    right = functional.fused_add_rms_norm

    def wrong(left, *rest):
        return right(left * 1.1, *rest)

    monkeypatch.setattr(functional, "fused_add_rms_norm", wrong)
    with pytest.raises(AssertionError):
        assert_same_step(loss_and_gradients(model), expected)


def test_an_operator_that_is_wrong_is_refused(monkeypatch):
    right = functional.fused_add_rms_norm
    monkeypatch.setattr(
        functional, "fused_add_rms_norm", lambda left, *rest: right(left * 1.1, *rest)
    )
    handle = patch(build())
    assert all("the layer: output differs" in row.status for row in layer_rows(handle))


def with_a_hook(norm):
    norm.register_forward_hook(lambda module, args, output: output * 1.5)


def with_a_forward_of_its_own(norm):
    own = norm.forward
    norm.forward = lambda x: own(x) * 1.5


@pytest.mark.parametrize("change", [with_a_hook, with_a_forward_of_its_own])
def test_a_norm_that_is_more_than_ours_is_called_as_a_module(change, monkeypatch):
    model, reference = build(), build()
    patch(model)
    for one in (model, reference):
        change(one.model.layers[1].post_attention_layernorm)
    expected = loss_and_gradients(reference)
    found, count = sums(model, monkeypatch)
    assert count == 1
    assert_same_step(found, expected)


def test_a_norm_that_is_a_builtin_function_is_called(monkeypatch):
    model, reference = build("Qwen3"), build("Qwen3")
    patch(model)
    for one in (model, reference):
        layer = one.model.layers[1]
        del layer.post_attention_layernorm, layer.self_attn.k_norm
        layer.post_attention_layernorm = layer.self_attn.k_norm = torch.tanh
    expected = loss_and_gradients(reference)
    found, count = sums(model, monkeypatch)
    assert count == 1
    assert_same_step(found, expected)


def test_sums_of_two_dtypes_are_added_by_torch(monkeypatch):
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss_and_gradients(model)
        patch(model)
        found, count = sums(model, monkeypatch)
    assert count == 0
    assert_same_step(found, expected, 5e-2)


def test_a_norm_that_promotes_gives_the_dtype_it_gave(monkeypatch):
    model = build("Llama", torch.bfloat16)
    for layer in model.model.layers:
        layer.post_attention_layernorm.float()
    handle = patch(model)
    norm = model.model.layers[0].post_attention_layernorm
    x = torch.randn(2, 5, 32, dtype=torch.bfloat16)
    y, total = norm_of(norm).after_add(norm, x, x)
    assert y.dtype == torch.float32
    assert torch.equal(y, norm(x + x))
    assert torch.equal(total, x + x)
    handle.unpatch()
    assert standing(norm) is None


class ScaledLayer(LlamaDecoderLayer):
    """Statements around the sum that no known layer has."""

    def forward(self, hidden_states, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = residual + 0.5 * hidden_states
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        return residual * self.mlp(hidden_states)


class OtherLayer(LlamaDecoderLayer):
    def forward(self, hidden_states, **kwargs):
        return super().forward(hidden_states, **kwargs)


def test_what_else_a_layer_does_stays_its_own(monkeypatch):
    model = build()
    for layer in model.model.layers:
        layer.__class__ = ScaledLayer
    expected = loss_and_gradients(model)
    patch(model)
    found, count = sums(model, monkeypatch)
    assert count == 2
    assert_same_step(found, expected)


def test_a_layer_that_fuses_nothing_says_why():
    model = build()
    model.model.layers[1].__class__ = OtherLayer
    assert [(row.path, row.role, row.status) for row in layer_rows(patch(model))] == [
        ("model.layers.0", "fused_add_rms_norm", "patched"),
    ]
    rows = {row.path: row for row in patch(model).report()}
    row = rows["model.layers.1"]
    assert (row.role, row.status) == (
        "add_norm",
        "no norm in its forward is called on a sum made there",
    )


def test_a_source_that_is_not_that_of_the_code_is_not_used(monkeypatch):
    own = LlamaDecoderLayer.forward
    path = innermost(own).__code__.co_filename
    lines = [line.replace("residual + hidden", "residual - hidden") for line in open(path)]
    size, time, _, name = linecache.cache.get(path) or (0, None, None, path)
    monkeypatch.setattr(linecache, "checkcache", lambda filename=None: None)
    monkeypatch.setitem(linecache.cache, path, (size, time, lines, name))
    forget()
    assert norms_after_sums(own) == ()
    rows = [row for row in patch(build()).report() if row.module == "LlamaDecoderLayer"]
    assert {row.status for row in rows} == {"its forward has no source that is surely its own"}
    monkeypatch.undo()
    forget()
    assert norms_after_sums(own) == ("post_attention_layernorm",)


def forget():
    sums_of_code.cache_clear()
    rewritten_definition.cache_clear()


def test_the_forward_keeps_its_signature_and_no_global_is_written():
    from transformers.models.llama import modeling_llama

    before = set(vars(modeling_llama))
    forget()
    ours = rewritten(LlamaDecoderLayer.forward, ("post_attention_layernorm",), add_and_norm)
    assert inspect.signature(ours) == inspect.signature(LlamaDecoderLayer.forward)
    assert set(vars(modeling_llama)) == before


def test_generation_with_a_cache_gives_the_same_tokens():
    model = build("Qwen3").eval()
    ids = batch()["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": True}
    expected = model.generate(ids, **options)
    patch(model)
    assert torch.equal(model.generate(ids, **options), expected)
