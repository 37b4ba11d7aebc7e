"""What a layer does with a sum after its norm: fused only where none of it could tell."""

import ast
import copy

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.rules.add_norm import add_and_norm
from liger_jit.patch.rules.add_norm_source import sums_in
from tiny_models import assert_same_step, build, counted, error, loss_and_gradients
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

FUSED = "x = r + x\nr = x\nx = self.norm(x)\n"
ROLE = "fused_add_rms_norm"


def shown(text):
    (one,) = sums_in(ast.parse(text).body)
    return one.shown


@pytest.mark.parametrize(
    "after",
    [
        "return r + self.mlp(x)",
        "return r * self.mlp(x.view(r.shape)), self.norm",
        "x = self.mlp(x)\nif x is not None:\n    x = self.gate * x\nx = r + x\nreturn x",
        "flat = r.reshape(-1, r.shape[-1])\nx = self.experts(flat, x)\nreturn r - x",
        "x += r\nreturn x",
        "r = r + x\nreturn r",
        "kept = r\ndel r\nreturn kept + x",
        "r, y = r + x, 1\nself.kept = r\nreturn y",
        "if r is None or r.size(0) == 1: x = 2 * r\nreturn x",
        "return [x for _ in y]",
    ],
)
def test_arithmetic_on_a_sum_tells_nothing(after):
    assert shown(FUSED + after) == ""


@pytest.mark.parametrize(
    ("after", "what"),
    [
        ("r.register_hook(self.hook)", "r.register_hook"),
        ("r.retain_grad()", "r.retain_grad"),
        ("r = r.detach_()", "r.detach_"),
        ("y = r.requires_grad", "r.requires_grad"),
        ("y = r.to(self.dtype)", "r.to"),
        ("r.shape = y", "r.shape"),
        ("r.grad = None", "r.grad"),
        ("self.kept = r", "self.kept = r"),
        ("y = kept = r", "y = kept = r"),
        ("kept = r\nother = kept\nself.see(other)", "self.see(other)"),
        ("y = self.see(x, sum=r)", "sum=r"),
        ("return r", "return r"),
        ("return self.mlp(x), r", "(self.mlp(x), r)"),
        ("return {'sum': r}", "{'sum': r}"),
        ("y = self.mlp(x) or r", "self.mlp(x) or r"),
        ("y = x if x else r", "x if x else r"),
        ("(y := r)", "(y := r)"),
        ("y = f'{r}'", "{r}"),
        ("y = r[0]", "r[0]"),
        ("r[0] = 1", "r[0]"),
        ("r *= 2", "r *= 2"),
        ("y = r == x", "r == x"),
        ("y = -r", "-r"),
        ("for y in r: pass", "for y in r:"),
        ("with r as y: pass", "r as y"),
        ("y: Tensor = r", "y: Tensor = r"),
        ("if x:\n    kept = r\nelse:\n    kept = x\nself.see(kept)", "self.see(kept)"),
        ("for _ in y:\n    self.see(kept)\n    kept = r", "self.see(kept)"),
        ("if x:\n    r = x\nself.see(r)", "self.see(r)"),
        ("y = lambda: r + 1", "lambda: r + 1"),
        ("y = (r + one for one in x)", "(r + one for one in x)"),
        ("def see(): return r", "def see():"),
        ("kept = r\ndef see(): return kept", "def see():"),
        ("y = locals()", "locals"),
        ("y = self.see(vars)", "vars"),
    ],
)
def test_whatever_else_is_done_with_a_sum_might_tell(after, what):
    found = shown(FUSED + after)
    assert what in found or found.startswith(what)


@pytest.mark.parametrize(
    "text",
    [
        "x = r + x\nreturn self.norm(x), x",
        "x = r + x\ny = self.see(self.norm(x), x)",
        "x = r + x\nkept = x\nx = self.norm(x)\nreturn kept",
        "def see(): return x\nx = r + x\nx = self.norm(x)",
        "global x\nx = r + x\nx = self.norm(x)",
        "nonlocal r\nx = r + x\nr = x\nx = self.norm(x)",
        "see = locals\nx = r + x\nx = self.norm(x)",
    ],
)
def test_nor_anywhere_else(text):
    assert shown(text) != ""


class Watching(LlamaDecoderLayer):
    """Asks, once the sum has been normed, for the gradient of the sum."""

    def forward(self, hidden_states, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        self.watch(residual)
        return residual + self.mlp(hidden_states)

    def watch(self, total):
        if total.requires_grad:
            total.register_hook(self.__dict__.setdefault("seen", []).append)


class Keeping(Watching):
    def forward(self, hidden_states, **kwargs):
        mixed = self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        summed = hidden_states + mixed
        normed = self.post_attention_layernorm(summed)
        summed.register_hook(self.__dict__.setdefault("seen", []).append)
        return summed + self.mlp(normed)


@pytest.mark.parametrize(
    ("kind", "use"), [(Watching, "self.watch(residual)"), (Keeping, "summed.register_hook")]
)
def test_the_gradient_of_a_sum_is_that_of_its_norm_too(kind, use, monkeypatch):
    model = build()
    for layer in model.model.layers:
        layer.__class__ = kind
    expected = loss_and_gradients(model)
    right = [layer.__dict__.pop("seen")[-1] for layer in model.model.layers]
    handle = patch(model)
    for layer in model.model.layers:
        layer.__dict__.pop("seen", None)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    for layer, gradient in zip(model.model.layers, right, strict=True):
        assert error(layer.seen[-1], gradient) <= 2e-5
    assert not calls[ROLE]
    told = {row.status for row in handle.report() if row.module == kind.__name__}
    assert told == {
        f"the sum before post_attention_layernorm is more than a term after it: `{use}`"
    }


def a_norm():
    """(patched, as it was)."""
    norm = build().model.layers[0].post_attention_layernorm
    own = copy.deepcopy(norm)
    patch(nn.Sequential(norm))
    return norm, own


def inputs(*trained):
    made = [torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    return [x.requires_grad_(i in trained) for i, x in enumerate(made)]


@pytest.mark.parametrize("trained", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_sum_has_a_history_where_one_of_its_terms_has(trained, weight, gradients, monkeypatch):
    norm, own = a_norm()
    for one in (norm, own):
        one.weight.requires_grad_(weight)
    with torch.set_grad_enabled(gradients), counted(monkeypatch) as calls:
        left, right = inputs(*trained)
        normed, total = add_and_norm(norm, left, right)
        expected = own(left + right)
        assert total.requires_grad == (left + right).requires_grad
        assert normed.requires_grad == expected.requires_grad
        torch.testing.assert_close(normed, expected)
    alone = gradients and weight and not trained
    assert calls[ROLE] == (0 if alone else 1)


@pytest.mark.parametrize("permuted", [(0,), (1,), (0, 1)])
def test_a_sum_lies_in_memory_as_that_of_torch(permuted):
    norm, own = a_norm()
    left, right = (
        x.transpose(0, 1).contiguous().transpose(0, 1) if i in permuted else x
        for i, x in enumerate(inputs())
    )
    normed, total = add_and_norm(norm, left, right)
    assert total.stride() == (left + right).stride()
    assert normed.stride() == own(left + right).stride()
