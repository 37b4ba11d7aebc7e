"""Rotations by complex factors, of neighbours that become halves, and several in one forward."""

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.patch import patch
from liger_jit.patch.installed import installed_in
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.rotary_complex import dimension_of_heads, rotary_by_factors
from tiny_models import assert_same_step, counted, error, shape_of
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.llama4 import modeling_llama4

HEADS_AT = {modeling_llama4: 2, modeling_deepseek_v2: 1}
MODELS = ("llama4_text", "deepseek_v2", "deepseek_v3")


def name_of(file):
    return file.__name__.rpartition("modeling_")[2]


def heads(heads_at, dtype=torch.float32, gradient=True):
    made = [torch.randn(2, 7, count, 16) for count in (4, 2)]
    q, k = (x.to(dtype).transpose(1, 3 - heads_at).requires_grad_(gradient) for x in made)
    return q, k, torch.view_as_complex(torch.randn(1, 7, 8, 2))


def step(function, q, k, freqs):
    results = function(q, k, freqs)
    total = sum((y.float() * (i + 1)).sin().sum() for i, y in enumerate(results))
    return [*results, *torch.autograd.grad(total, (q, k))]


@pytest.mark.parametrize("file", HEADS_AT, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_replacement_is_the_function(file, dtype, monkeypatch):
    original, heads_at = file.apply_rotary_emb, HEADS_AT[file]
    assert dimension_of_heads(original, 16, (2, 96)) == heads_at
    q, k, freqs = heads(heads_at, dtype)
    with counted(monkeypatch) as calls:
        found = step(rotary_by_factors(original, heads_at), q, k, freqs)
    assert calls["complex_rope"] == 1
    expected = step(original, q, k, freqs)
    assert [y.stride() for y in found[:2]] == [y.stride() for y in expected[:2]]
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype
        assert error(mine, own) <= {torch.float32: 1e-6, torch.bfloat16: 4e-3}.get(dtype, 5e-4)


def test_what_no_operator_takes_goes_to_the_function_itself(monkeypatch):
    original = modeling_llama4.apply_rotary_emb
    replacement = rotary_by_factors(original, 2)
    q, k, freqs = heads(2)
    with counted(monkeypatch) as calls:
        replacement(q, k, freqs.to(torch.complex128))
        replacement(q, k.detach(), freqs)
        replacement(q, k, freqs.clone().requires_grad_())
        replacement(q, k, freqs[:, :1].clone())
        replacement(q.double(), k.double(), freqs)
    assert not calls["complex_rope"]


def conjugate(xq, xk, freqs_cis):
    return modeling_llama4.apply_rotary_emb(xq, xk, freqs_cis.conj())


def of_q_alone(xq, xk, freqs_cis):
    return modeling_llama4.apply_rotary_emb(xq, xk, freqs_cis)[0], xk


def in_16_bits(xq, xk, freqs_cis):
    rotated = modeling_llama4.apply_rotary_emb(xq.bfloat16(), xk.bfloat16(), freqs_cis)
    return tuple(x.to(xq.dtype) for x in rotated)


@pytest.mark.parametrize("another", [conjugate, of_q_alone, in_16_bits])
def test_another_formula_is_not_taken_for_it(another, monkeypatch):
    with pytest.raises(Mismatch, match="rotating 16"):
        dimension_of_heads(another, 16, ())
    monkeypatch.setattr(modeling_llama4, "apply_rotary_emb", another)
    model, _ = tiny("llama4_text")
    rows = patch(model).report()
    assert not [row for row in rows if row.patched and "rope" in row.role]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_before_and_is_taken_back(name, monkeypatch):
    model, given = tiny(name)
    before, own = shape_of(model), step_of(model, given)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    layers = model.config.num_hidden_layers
    assert calls["rope" if name == "deepseek_v3" else "complex_rope"] == layers
    assert handle.report().counts["rope"][0] == layers
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]))
    handle.unpatch()
    assert shape_of(model) == before
    again = step_of(model, given)
    assert all(torch.equal(again[1][key], own[1][key]) for key in own[1])


def test_a_model_in_float64_keeps_its_rotation():
    model, given = tiny("llama4_text")
    model.double()
    own = step_of(model, given)
    patch(model)
    found = step_of(model, given)
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]))


def test_of_several_functions_the_one_that_is_called_now_counts(monkeypatch):
    model, given = tiny("deepseek_v3")
    patch(model)
    attention = model.model.layers[0].self_attn
    assert installed_in(attention).proof.role == "rope"
    own = step_of(model, given)
    model.config.rope_interleave = False
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["rope"] == model.config.num_hidden_layers
    twin, _ = tiny("deepseek_v3")
    twin.config.rope_interleave = False
    expected = step_of(twin, given)
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(expected[0]), expected[1]))
    assert not torch.equal(
        found[1]["model.layers.0.self_attn.q_b_proj.weight"],
        own[1]["model.layers.0.self_attn.q_b_proj.weight"],
    )


@pytest.mark.parametrize("name", ["apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave"])
def test_a_function_that_is_replaced_after_the_patch_is_called(name, monkeypatch):
    """Any of those that a forward may call: the guard is of all."""
    model, given = tiny("deepseek_v3")
    patch(model)
    own = getattr(modeling_deepseek_v3, name)
    monkeypatch.setattr(modeling_deepseek_v3, name, lambda *given: own(*given))
    with counted(monkeypatch) as calls:
        step_of(model, given)
    assert not calls["rope"]


def test_positions_are_left_to_the_function(monkeypatch):
    model, _ = tiny("deepseek_v3")
    patch(model)
    (_, function) = installed_in(model.model.layers[0].self_attn).proof.functions
    if function.name != "apply_rotary_pos_emb_interleave":
        (function, _) = installed_in(model.model.layers[0].self_attn).proof.functions
    q, k = torch.randn(2, 2, 2, 5, 4)
    cos, sin = torch.randn(2, 1, 5, 4)
    with counted(monkeypatch) as calls:
        function.replacement(q, k, cos, sin, torch.arange(5))
    assert not calls["rope"]
    with counted(monkeypatch) as calls:
        function.replacement(q, k, cos, sin)
        function.replacement(q.transpose(1, 2), k.transpose(1, 2), cos, sin, unsqueeze_dim=2)
    assert calls["rope"] == 2
