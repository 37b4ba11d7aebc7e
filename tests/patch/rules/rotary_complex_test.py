"""Rotations by complex factors, of neighbours that become halves, and several in one forward."""

from functools import partial

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.patch import patch
from liger_jit.patch.installed import installed_in
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.rope import RotaryFunction
from liger_jit.patch.rules.rotary_complex import Factors, factors_of
from tiny_models import assert_same_step, counted, error, shape_of
from torch import nn
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.llama4 import modeling_llama4

TAKEN = {
    modeling_llama4.apply_rotary_emb: Factors(2),
    modeling_deepseek_v2.apply_rotary_emb: Factors(1),
    modeling_llama4.vision_apply_rotary_emb: Factors(2, is_shared=True),
}
MODELS = ("llama4_text", "deepseek_v2", "deepseek_v3")


def name_of(function):
    return f"{function.__module__.rpartition('modeling_')[2]}.{function.__name__}"


def replacement_of(original, factors):
    replacement = RotaryFunction("rotate", original, True, factors=factors).replacement
    return partial(replacement, nn.Module(), original)


def heads(heads_at, dtype=torch.float32, gradient=True):
    made = [torch.randn(2, 7, count, 16) for count in (4, 2)]
    q, k = (x.to(dtype).transpose(1, 3 - heads_at).requires_grad_(gradient) for x in made)
    return q, k, torch.view_as_complex(torch.randn(1, 7, 8, 2))


def step(function, q, k, freqs):
    results = function(q, k, freqs)
    total = sum((y.float() * (i + 1)).sin().sum() for i, y in enumerate(results))
    return [*results, *torch.autograd.grad(total, (q, k))]


@pytest.mark.parametrize("original", TAKEN, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_replacement_is_the_function(original, dtype, monkeypatch):
    taken = TAKEN[original]
    assert factors_of(original, 16, (2, 96)) == taken
    q, k, freqs = heads(taken.heads_at, dtype)
    with counted(monkeypatch) as calls:
        found = step(replacement_of(original, taken), q, k, freqs)
    assert calls["complex_rope"] == 1
    expected = step(original, q, k, freqs)
    assert [y.stride() for y in found[:2]] == [y.stride() for y in expected[:2]]
    assert [y._is_view() for y in found[:2]] == [y._is_view() for y in expected[:2]]
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype
        assert error(mine, own) <= {torch.float32: 1e-6, torch.bfloat16: 4e-3}.get(dtype, 5e-4)


def test_what_no_operator_takes_goes_to_the_function_itself(monkeypatch):
    original = modeling_llama4.apply_rotary_emb
    replacement = replacement_of(original, Factors(2))
    q, k, freqs = heads(2)
    with counted(monkeypatch) as calls:
        replacement(q, k, freqs.to(torch.complex128))
        replacement(q, k.detach(), freqs)
        replacement(q, k, freqs.clone().requires_grad_())
        replacement(q, k, freqs[:, :1].clone())
        replacement(q.double(), k.double(), freqs)
    assert not calls["complex_rope"]


@pytest.mark.parametrize("shape", [(7, 1, 8), (7, 8), (1, 1, 7, 8), (1, 7, 8)])
def test_factors_of_all_sequences_may_have_any_dimensions(shape, monkeypatch):
    original = modeling_llama4.vision_apply_rotary_emb
    replacement = replacement_of(original, Factors(2, is_shared=True))
    q, k, freqs = heads(2)
    freqs = freqs.reshape(shape)
    with counted(monkeypatch) as calls:
        found = replacement(q, k, freqs_ci=freqs)
    assert calls["complex_rope"] == 1
    for mine, own in zip(found, original(q, k, freqs), strict=True):
        assert error(mine, own) <= 1e-6


def test_factors_that_are_not_rows_go_to_the_function_itself(monkeypatch):
    original = modeling_llama4.vision_apply_rotary_emb
    replacement = replacement_of(original, Factors(2, is_shared=True))
    q, k, freqs = heads(2)
    with counted(monkeypatch) as calls:
        for other in (freqs.reshape(8, 7), freqs.reshape(56)):  # of the elements alone
            for mine, own in zip(replacement(q, k, other), original(q, k, other), strict=True):
                assert torch.equal(mine, own)
        with pytest.raises(TypeError, match="freqs_cos"):
            replacement(q, k, freqs_cos=freqs)
        with pytest.raises(RuntimeError):
            replacement(q, k, freqs[:, :6])
    assert not calls["complex_rope"]


def of_turned_places(query, key, freqs_ci):
    return turned(query, freqs_ci), turned(key, freqs_ci)


def turned(x, freqs):
    """Its factors are of another dimension than the last."""
    heads = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    rank = heads.ndim
    shape = [size if i == 1 or i == 0 else 1 for i, size in enumerate(heads.shape)]
    return torch.view_as_real(heads * freqs.view(*shape)).flatten(3).type_as(x) * rank


def of_chosen_sizes(query, key, freqs_ci):
    shape = [size if size > 2 else 1 for i, size in enumerate(query.shape)]
    return query * freqs_ci.view(*shape), key * freqs_ci.view(*shape)


@pytest.mark.parametrize("another", [of_turned_places, of_chosen_sizes])
def test_a_list_of_sizes_that_a_probe_may_not_see_is_refused(another, monkeypatch):
    monkeypatch.setattr(modeling_llama4, "vision_apply_rotary_emb", another)
    rows = patch(vision()).report()
    reason = next(row.status for row in rows if row.role == "rotary")
    assert "has a part that a probe may not see the whole of: [size if" in reason


def vision():
    torch.manual_seed(2)
    settings = modeling_llama4.Llama4VisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        image_size=8, patch_size=2, vision_output_dim=32, projector_input_dim=32,
        projector_output_dim=32, attn_implementation="eager",
    )  # fmt: skip
    model = modeling_llama4.Llama4VisionModel(settings).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def step_of_pictures(model):
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    model.zero_grad()
    value = model(pixels).last_hidden_state.square().sum()
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_tower_trains_as_before_and_is_taken_back(monkeypatch):
    model = vision()
    own = step_of_pictures(model)
    handle = patch(model)
    assert handle.report().counts["rope"] == (2, 2), str(handle.report())
    with counted(monkeypatch) as calls:
        found = step_of_pictures(model)
    assert calls["complex_rope"] == 2
    assert_same_step(found, own)
    handle.unpatch()
    again = step_of_pictures(model)
    assert all(torch.equal(again[1][name], own[1][name]) for name in own[1])


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
        factors_of(another, 16, ())
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
    attention = model.model.layers[0].self_attn
    (_, function) = installed_in(attention).proof.functions
    if function.name != "apply_rotary_pos_emb_interleave":
        (function, _) = installed_in(attention).proof.functions
    rotate = partial(function.replacement, attention, function.original)
    q, k = torch.randn(2, 2, 2, 5, 4)
    cos, sin = torch.randn(2, 1, 5, 4)
    with counted(monkeypatch) as calls:
        rotate(q, k, cos, sin, torch.arange(5))
    assert not calls["rope"]
    with counted(monkeypatch) as calls:
        rotate(q, k, cos, sin)
        rotate(q.transpose(1, 2), k.transpose(1, 2), cos, sin, unsqueeze_dim=2)
    assert calls["rope"] == 2
