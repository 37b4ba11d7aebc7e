"""Attention that rotates in some of its layers: its norms wait for a rotation that may not come."""

import ast

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.qk_norm_source import rewrite
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients, shape_of

# A layer that rotates and one that does not.
EXAONE = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}


def exaone(**more):
    return build("Exaone4", **EXAONE, **more)


def of_heads(calls):
    """Those of attention: a norm after each part of a layer and one at the end are others."""
    return {name: calls[name] for name in ("qk_norm_rope", "rope") if calls[name]}, (
        calls["rms_norm"] - 1
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_go_into_the_rotation_where_there_is_one(dtype, monkeypatch):
    model = exaone(dtype=dtype)
    reference = exaone(dtype=dtype).float() if dtype is torch.bfloat16 else None
    before, expected = shape_of(model), loss_and_gradients(model)
    handle = patch(model)
    rows = [row for row in handle.report() if row.path.endswith("self_attn")]
    assert [(row.role, row.status) for row in rows] == [("qk_norm_rope", "patched")] * 2
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    assert of_heads(calls) == ({"qk_norm_rope": 1}, 2)  # the other layer's norms are alone
    if reference is None:
        assert_same_step(found, expected)
    else:
        assert_same_step(found, expected, 5e-2)
    handle.unpatch()
    assert shape_of(model) == before
    assert_same_step(loss_and_gradients(model), expected, 0.0)


def test_the_condition_is_asked_at_each_call(monkeypatch):
    """Layers of one class share a proof, whichever way the first of them takes."""
    model = exaone()
    patch(model)
    for attention in (layer.self_attn for layer in model.model.layers):
        attention.is_sliding = not attention.is_sliding
        attention.sliding_window = 4
    twin = exaone()
    twin.load_state_dict(model.state_dict())
    for attention in (layer.self_attn for layer in twin.model.layers):
        attention.is_sliding = not attention.is_sliding
        attention.sliding_window = 4
    expected = loss_and_gradients(twin)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert of_heads(calls)[0] == {"qk_norm_rope": 1}


@pytest.mark.parametrize("layer", [0, 1])
def test_a_hook_on_a_norm_sees_its_result(layer, monkeypatch):
    model = exaone()
    plain, seen = exaone(), []
    for one in (plain, model):
        norm = one.model.layers[layer].self_attn.q_norm
        norm.register_forward_hook(lambda module, given, result: seen.append(result.detach()))
    patch(model)
    expected = loss_and_gradients(plain)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert torch.allclose(*seen, atol=1e-5)
    assert of_heads(calls)[0] == ({"rope": 1} if layer == 0 else {"qk_norm_rope": 1})


def test_a_checkpointed_and_a_compiled_step(monkeypatch):
    model = exaone()
    expected = loss_and_gradients(model)
    patch(model)
    compiled = torch.compile(model, backend="aot_eager")
    assert_same_step(loss_and_gradients(compiled_as(model, compiled)), expected)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_step(loss_and_gradients(model), expected)


def compiled_as(model, compiled):
    """The compiled forward under the names of the model's parameters."""

    class Same:
        zero_grad, named_parameters = model.zero_grad, model.named_parameters

        def __call__(self, **inputs):
            return compiled(**(inputs or batch()))

    return Same()


FORWARD = """
def forward(self, x, angles):
    q = self.q_norm(self.q(x)).transpose(1, 2)
    k = self.k_norm(self.k(x)).transpose(1, 2)
    {between}
    if {test}:
        {inside}
        q, k = rotate(q, k, cos, sin)
    {after}
    return q, k
"""
PLAIN = {"between": "v = self.v(x)", "test": "self.rotates", "inside": "cos, sin = angles",
         "after": "pass"}  # fmt: skip
OTHERS = {
    "the test reads q": {"test": "q.shape[0] > 1"},
    "q is read before it is rotated": {"inside": "cos, sin = angles; y = q.sum()"},
    "what the norm was given is written": {"inside": "cos, sin = angles; x += 1"},
    "there is another way": {"after": "else:\n        q = q * 2"},
    "it is rotated twice": {"after": "q, k = rotate(q, k, cos, sin)"},
}


def source(change):
    return ast.parse(FORWARD.format(**{**PLAIN, **change})).body[0]


def test_what_is_written_so():
    found = rewrite(source({}), "rotate")
    assert found.is_conditional and found.pair == ("q", "k")
    assert found.norms == ("q_norm", "k_norm")
    told = ast.unparse(found.definition)
    assert "else:\n        q, k = _liger_jit_norms_alone(_liger_jit_waits, self.q_norm" in told


@pytest.mark.parametrize("name", OTHERS)
def test_and_nothing_else(name):
    with pytest.raises(Mismatch):
        rewrite(source(OTHERS[name]), "rotate")
