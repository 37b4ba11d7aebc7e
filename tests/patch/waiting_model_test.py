"""A family's model that was changed while it waited for its first forward."""

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
