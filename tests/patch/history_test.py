"""Results of one node: each has a history where eager's has one, and keeps what eager's keeps."""

import copy
import itertools

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import build, counted
from transformers.models.llama import modeling_llama
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.qwen3 import modeling_qwen3

FILES = {"Llama": modeling_llama, "Olmo2": modeling_olmo2, "Qwen3": modeling_qwen3}


def attention(family):
    """(attention of a patched model, of the model as it was)"""
    model = build(family)
    own = copy.deepcopy(model)
    patch(model)
    return model.model.layers[0].self_attn, own.model.layers[0].self_attn


def rotated(module, monkeypatch, x, family):
    """The q and k that go into the product of attention."""
    kept = []

    def seen(module, q, k, *rest, **named):
        kept.extend((q, k))
        return own(module, q, k, *rest, **named)

    file = FILES[family]
    own = file.eager_attention_forward
    angles = torch.randn(1, x.shape[1], 4, generator=torch.Generator().manual_seed(1))
    angles = torch.cat((angles, angles), -1)
    with monkeypatch.context() as patched:
        patched.setattr(file, "eager_attention_forward", seen)
        module(x, position_embeddings=(angles.cos(), angles.sin()), attention_mask=None)
    return kept


PROJECTIONS = ("q_proj", "k_proj")
NORMS = ("q_norm", "k_norm")


def some_of(names):
    return [one for n in range(len(names) + 1) for one in itertools.combinations(names, n)]


@pytest.mark.parametrize(
    ("family", "trained"),
    [
        *(("Llama", one) for one in some_of(PROJECTIONS)),
        *(("Qwen3", one) for one in some_of(PROJECTIONS + NORMS)),
        *(("Olmo2", one) for one in some_of(PROJECTIONS + NORMS)),
    ],
)
def test_of_q_and_k_only_the_trained_one_has_a_history(family, trained, monkeypatch):
    found, expected = attention(family)
    for module in (found, expected):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] in trained)
    x = torch.randn(2, 5, 32)
    with counted(monkeypatch) as calls:
        ours = rotated(found, monkeypatch, x, family)
    for one, own in zip(ours, rotated(expected, monkeypatch, x, family), strict=True):
        assert one.requires_grad == own.requires_grad
        assert one.is_leaf == own.is_leaf
        assert one.stride() == own.stride()
        torch.testing.assert_close(one, own)
    both = len({one.requires_grad for one in ours}) == 1
    rotations = (calls[name] for name in ("rope", "qk_norm_rope", "full_qk_norm_rope"))
    assert sum(rotations) == (1 if both else 2)


@pytest.mark.parametrize("trained", [("q_proj",), ("k_proj",)])
def test_without_gradients_q_and_k_are_rotated_at_once(trained, monkeypatch):
    found, _ = attention("Llama")
    for name, parameter in found.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in trained)
    with torch.no_grad(), counted(monkeypatch) as calls:
        rotated(found, monkeypatch, torch.randn(2, 5, 32), "Llama")
    assert calls["rope"] == 1


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Phi3"])
@pytest.mark.parametrize("frozen", [("gate", "up"), ("gate", "up", "down")])
def test_the_input_of_frozen_projections_may_be_written(family, frozen):
    results = []
    for change in (lambda model: None, patch):
        model = build(family)
        mlp = model.model.layers[0].mlp
        for name, weight in mlp.named_parameters():
            weight.requires_grad_(not name.startswith(frozen))
        change(model)
        leaf = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2), requires_grad=True)
        x = leaf * 1
        x += mlp(x)
        x.sum().backward()
        results.append((leaf.grad, mlp.down_proj.weight.grad))
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected)
