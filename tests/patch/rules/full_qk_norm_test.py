"""Norms of all heads of a token together that go into the rotation: which do, and what keeps them
apart."""

import ast
import copy
from collections import Counter

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.qk_norm_source import rewrite
from qk_norm_test import (
    attention_rows,
    hook_nothing,
    roles,
    with_a_forward_of_its_own,
    with_a_hook,
    with_a_hook_before,
)
from tiny_models import (
    assert_same_step,
    batch,
    build,
    counted,
    error,
    in_float32,
    loss_and_gradients,
)

TOGETHER = {"full_qk_norm_rope": 2}
# Two norms and a rotation of each of two layers, and the norm at the end.
APART = {"rms_norm": 4, "rope": 2}


def step(model, monkeypatch):
    """(a step, its calls of these operators by attention) of an OLMo 2."""
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    calls["rms_norm"] -= 1
    return found, {name: calls[name] for name in (*TOGETHER, *APART) if calls[name]}


# OLMoE may clip between norm and division; OLMo 2 rounds once, MiniMax M2 before the weight.
@pytest.mark.parametrize("family", ["Olmo2", "Olmo3", "FlexOlmo", "Olmoe", "MiniMaxM2"])
def test_norms_go_into_the_rotation(family, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model)
    assert roles(patch(model)) == {("qk_norm_rope", "patched")}
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["full_qk_norm_rope"] == 2
    assert not calls["rope"]


# OLMo 2 has tables in float32, OLMoE in the dtype of its states.
@pytest.mark.parametrize("family", ["Olmo2", "Olmoe"])
def test_bfloat16_gives_the_bits_of_norms_and_rotation_apart(family, monkeypatch):
    model = build(family, torch.bfloat16)
    exact, eager = loss_and_gradients(in_float32(model)), loss_and_gradients(model)
    patch(model)
    with counted(monkeypatch) as calls:
        together = loss_and_gradients(model)
    assert calls["full_qk_norm_rope"] == 2
    hook_nothing(model)
    with counted(monkeypatch) as calls:
        apart = loss_and_gradients(model)
    assert (calls["full_qk_norm_rope"], calls["rope"]) == (0, 2)
    assert torch.equal(together[0], apart[0])
    for name, gradient in apart[1].items():
        assert torch.equal(together[1][name], gradient), name
        truth = exact[1][name]
        assert error(together[1][name], truth) <= 2 * error(eager[1][name], truth) + 1e-2, name


def test_an_operator_that_is_wrong_is_not_used(monkeypatch):
    model = build("Olmo2")
    expected = loss_and_gradients(model)
    right = functional.full_qk_norm_rope
    with monkeypatch.context() as wrong:
        wrong.setattr(functional, "full_qk_norm_rope", lambda q, *rest: right(-q, *rest))
        told = dict(roles(patch(model)))
        assert told.pop("rope") == "patched"
        assert "output differs" in told.pop("qk_norm_rope")
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("change", [with_a_hook, with_a_hook_before, with_a_forward_of_its_own])
@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
def test_a_norm_that_is_more_than_ours_is_called_as_a_module(change, name, monkeypatch):
    model, reference = build("Olmo2"), build("Olmo2")
    patch(model)
    for one in (model, reference):
        change(getattr(one.model.layers[1].self_attn, name))
    expected = loss_and_gradients(reference)
    found, calls = step(model, monkeypatch)
    assert calls == {"full_qk_norm_rope": 1, "rms_norm": 2, "rope": 1}
    assert_same_step(found, expected)


def test_a_hook_sees_what_it_saw(monkeypatch):
    seen = []

    def watch(model):
        norm = model.model.layers[0].self_attn.q_norm
        norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
        loss_and_gradients(model)
        return seen.pop()

    model = build("Olmo2")
    expected = watch(copy.deepcopy(model))
    patch(model)
    for found, wanted in zip(watch(model), expected, strict=True):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted)


def test_norms_that_differ_are_not_taken_together(monkeypatch):
    model = build("Olmo2")
    for layer in model.model.layers:
        layer.self_attn.k_norm.variance_epsilon = 1e-3
    expected = loss_and_gradients(model)
    patch(model)
    found, calls = step(model, monkeypatch)
    assert calls == APART
    assert_same_step(found, expected)


@pytest.mark.parametrize("flags", [{"rope": False}, {"rms_norm": False}])
def test_flags_leave_the_other_half(flags, monkeypatch):
    model = build("Olmo2")
    expected = loss_and_gradients(model)
    patch(model, **flags)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert not calls["full_qk_norm_rope"]
    assert bool(calls["rope"]) == ("rope" not in flags)


def test_autocast_gives_the_dtypes_and_no_worse_gradients(monkeypatch):
    model = build("Olmo2")
    exact = loss_and_gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        eager = loss_and_gradients(model)
        patch(model)
        with counted(monkeypatch) as calls:
            found = loss_and_gradients(model)
    assert (calls["full_qk_norm_rope"], calls["rope"]) == (2, 0)
    assert found[0].dtype == eager[0].dtype
    for name, gradient in exact[1].items():
        assert error(found[1][name], gradient) <= 2 * error(eager[1][name], gradient), name


def test_dtypes_that_were_not_proved_are_left_to_the_norms():
    model = build("Olmo2").double()
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.float()
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_take_the_same_way(use_reentrant, monkeypatch):
    model = build("Olmo2")
    expected = loss_and_gradients(model)
    patch(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert (calls["full_qk_norm_rope"], calls["rope"]) == (4, 0)


@pytest.mark.parametrize("family", ["Olmo2", "Olmoe"])
def test_a_compiled_attention_has_no_break(family, monkeypatch):
    model = build(family)
    patch(model)
    attention = model.model.layers[0].self_attn
    x = torch.randn(2, 11, 32)
    tables = model.model.rotary_emb(x, torch.arange(11).unsqueeze(0))
    torch._dynamo.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    with counted(monkeypatch) as calls:
        found = compiled(x, position_embeddings=tables, attention_mask=None)[0]
    assert calls["full_qk_norm_rope"] == 1
    assert not calls["rope"]
    wanted = attention(x, position_embeddings=tables, attention_mask=None)[0]
    torch.testing.assert_close(found, wanted)


def test_generation_with_a_cache_gives_the_same_tokens(monkeypatch):
    model = build("Olmo2").eval()
    ids = batch()["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": True}
    expected = model.generate(ids, **options)
    patch(model)
    with counted(monkeypatch) as calls:
        assert torch.equal(model.generate(ids, **options), expected)
    assert calls["full_qk_norm_rope"] == 12


def test_what_clips_between_them_gets_values_that_are_normed(monkeypatch):
    """Also where it was told to after its forward was read."""
    model, reference = build("Olmoe"), build("Olmoe")
    patch(model)
    model.config.clip_qkv = reference.config.clip_qkv = 0.3
    unclipped = loss_and_gradients(build("Olmoe"))
    expected = loss_and_gradients(reference)
    assert error(unclipped[0], expected[0]) > 1e-4
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert (calls["full_qk_norm_rope"], calls["rope"]) == (0, 2)


def test_what_clips_when_it_is_read_keeps_its_rotation_and_says_why(monkeypatch):
    model = build("Olmoe", clip_qkv=0.7)
    expected = loss_and_gradients(model)
    told = dict(roles(patch(model)))
    assert told.pop("rope") == "patched"
    assert ".clamp_" in told.pop("qk_norm_rope")
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert (calls["full_qk_norm_rope"], calls["rope"]) == (0, 2)


def test_warm_up_learns_the_kernel():
    handle = patch(build("Olmo2"))
    assert len(attention_rows(handle)) == 2
    calls = Counter((call.op, call.spare) for call in handle._calls)
    assert calls["full_qk_norm_rope", False] == 1
    assert calls["rope", True] == 1 and not calls["rope", False]


STATEMENTS = """
def forward(self, x, tables, **kwargs):
    shape = (*x.shape[:-1], -1, 8)
    q = self.q_norm(self.q(x))
    k = self.k_norm(self.k(x))
    if self.clip:
        q.clamp_(self.clip)
    q = q.view(shape).transpose(1, 2)
    k = k.view(*shape).transpose(1, 2)
    cos, sin = tables
    q, k = rotate(q, k, cos, sin)
    return q @ k
"""


def rewritten(text):
    try:
        return rewrite(ast.parse(text).body[0], "rotate")
    except Mismatch:
        return None


def test_the_statements_are_found_where_they_are_and_nowhere_else():
    found = rewritten(STATEMENTS)
    assert found.full
    assert found.norms == ("q_norm", "k_norm")
    assert ast.unparse(found.own) == ast.unparse(ast.parse(STATEMENTS).body[0])
    q_norm, k_norm = "q = self.q_norm(self.q(x))", "k = self.k_norm(self.k(x))"
    view, clip = "q = q.view(shape).transpose(1, 2)", "if self.clip:\n"
    for old, new in (
        (q_norm, "q = self.q_norm(self.q(x)).transpose(1, 2)"),
        (q_norm, "q = self.q_norm(self.q(x), 1)"),
        (q_norm, "q = x"),
        (k_norm, "k = self.k.norm(x)"),
        (view, "q = q.view(shape).transpose(1, 3)"),
        (view, "q = q.view(shape).transpose(1, 2).contiguous()"),
        (view, "q = q.view(shape)"),
        (view, "q = q.view(q.shape).transpose(1, 2)"),
        (view, "q = q.view(k.shape).transpose(1, 2)"),
        (view, "q = q.T.view(shape).transpose(1, 2)"),
        (view, "q = k.view(shape).transpose(1, 2)"),
        (view, "q = p = q.view(shape).transpose(1, 2)"),
        (view, view + "\n    q = q * 2"),
        (view, "q = q * 2\n    " + view),
        (view, "p = q\n    " + view),
        (k_norm, "pass"),
        (clip, "if q.any():\n"),
        (clip, "for _ in x:\n"),
        (view, "if self.clip: x.clamp_(self.clip)\n    " + view),
        (clip, "if self.clip:\n        x += 1\n"),
        ("q.clamp_(self.clip)\n", "q.clamp_(self.clip)\n    else:\n        q = q * 2\n"),
        ("k = k.view(*shape).transpose(1, 2)", "k = k.transpose(1, 2)"),
    ):
        assert old in STATEMENTS
        assert rewritten(STATEMENTS.replace(old, new)) is None, new
    # One of each head, the other of all of a token together.
    halves = STATEMENTS.replace(k_norm, "k = self.k(x)").replace(
        "k = k.view(*shape).transpose(1, 2)", "k = self.k_norm(k.view(*shape)).transpose(1, 2)"
    )
    assert rewritten(halves) is None
    # The clipping stands between the norms.
    early = STATEMENTS.replace(f"    {k_norm}\n", "").replace(view, f"{k_norm}\n    {view}")
    assert rewritten(early) is None
