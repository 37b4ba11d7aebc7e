"""A family's model that was changed while it waited for its first forward."""

import copy
import pickle

import pytest
import torch
from liger_jit.transformers import monkey_patch
from tiny_models import batch, build
from transformers import LlamaForCausalLM

IDS = {"input_ids": batch()["input_ids"]}
OWN = LlamaForCausalLM.forward


def doubled(self, *args, **kwargs):
    output = OWN(self, *args, **kwargs)
    output.logits = output.logits * 2
    return output


class Doubled(LlamaForCausalLM):
    forward = doubled


def another_forward_of_its_class(model, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "forward", doubled)


def another_class(model, monkeypatch):
    model.__class__ = Doubled


@pytest.fixture(autouse=True)
def no_family_is_left():
    yield
    monkey_patch.revert_liger_kernel_to_llama()


@pytest.mark.parametrize("flags", [{}, {"fused_linear_cross_entropy": False}])
@pytest.mark.parametrize("change", [another_forward_of_its_class, another_class])
def test_its_first_forward_is_that_of_its_class_by_then(change, flags, monkeypatch):
    expected = build().eval()(**IDS).logits * 2
    monkey_patch.apply_liger_kernel_to_llama(**flags)
    model = build().eval()
    change(model, monkeypatch)
    for _ in range(2):
        torch.testing.assert_close(model(**IDS).logits, expected)
    assert any(row.patched for row in model.liger_handle.report())


def waits(model):
    return model


def ran(model):
    model(**IDS)
    return model


def counted_hook(model, args):
    model.calls = getattr(model, "calls", 0) + 1


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("state", [waits, ran, copy.deepcopy])
def test_it_is_saved_as_an_unpatched_model_is(state, hooked):
    expected = build().eval()(**IDS).logits
    monkey_patch.apply_liger_kernel_to_llama()
    model = build().eval()
    if hooked:
        model.register_forward_pre_hook(counted_hook)
    model = state(model)
    saved = pickle.dumps(model)
    assert b"liger_jit." not in saved  # no module of that name is imported
    assert ("liger_handle" in vars(model)) == (state is ran)
    monkey_patch.revert_liger_kernel_to_llama()
    loaded = pickle.loads(saved)
    torch.testing.assert_close(loaded(**IDS).logits, expected)
    assert len(loaded._forward_pre_hooks) == len(loaded._forward_pre_hooks_with_kwargs) + hooked
    assert getattr(loaded, "calls", 0) == hooked * (1 + (state is ran))
