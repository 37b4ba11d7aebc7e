"""The number of labels that count, which the loss gets before it has to start."""

import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.patch.label_count import LabelCount
from tiny_models import assert_same_step, batch, build, loss_and_gradients


def test_a_bound_is_given_only_for_what_the_labels_can_have_become():
    count = LabelCount(12, lambda: 7)
    assert count.bound_for(torch.zeros(12), -100) == 7
    assert count.bound_for(torch.zeros(10), -100) == 7
    assert count.bound_for(torch.zeros(13), -100) is None
    assert count.bound_for(torch.zeros(12), 0) is None


def test_on_the_cpu_the_loss_counts_for_itself():
    assert LabelCount.begin(torch.zeros(3, dtype=torch.int64)) is None


def test_a_gpu_step_leaves_ignored_tokens_out(cuda, monkeypatch):
    model = build("Qwen3").to(cuda)
    inputs = {name: value.to(cuda) for name, value in batch(batch_size=2, tokens=400).items()}
    inputs["labels"][:, 130:] = -100
    expected = loss_and_gradients(model, **inputs)
    asked, fused = [], functional.fused_linear_cross_entropy

    def recorded(*args, **options):
        asked.append(options["counted_tokens"])
        return fused(*args, **options)

    patch(model)
    monkeypatch.setattr(functional, "fused_linear_cross_entropy", recorded)
    assert_same_step(loss_and_gradients(model, **inputs), expected)
    assert asked == [int(inputs["labels"].ne(-100).sum())]
