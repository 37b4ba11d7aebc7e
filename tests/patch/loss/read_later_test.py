"""Logits that are read some time after the head are what the head would have made there."""

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, gradients_of, steps_of
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM


class Reads(LlamaForCausalLM):
    """Makes its loss of hidden states by a function."""

    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids, **kwargs).last_hidden_state
        return {"loss": self.loss_of(self, states)}


def doubled(function):
    return lambda *args: function(*args) * 2


def nothing_saved():
    return saved_tensors_hooks(torch.zeros_like, lambda tensor: tensor)


def while_linear_is_another(model, states):
    logits = model.lm_head(states)
    with mock.patch.object(F, "linear", doubled(F.linear)):
        return logits.square().mean()


def while_tanh_is_another(model, states):
    logits = torch.tanh(model.lm_head(states) / 5) * 5
    with mock.patch.object(torch, "tanh", doubled(torch.tanh)):
        return logits.square().mean()


def under_hooks_of_the_head(model, states):
    with nothing_saved():
        logits = model.lm_head(states)
    return logits.sum()


def under_hooks_that_came_later(model, states):
    logits = model.lm_head(states)
    with nothing_saved():
        return logits.sum()


def where_no_hooks_are_allowed(model, states):
    with nothing_saved():
        logits = model.lm_head(states)
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        return logits.exp().sum()


@pytest.mark.parametrize(
    "loss_of",
    [
        while_linear_is_another,
        while_tanh_is_another,
        under_hooks_of_the_head,
        under_hooks_that_came_later,
    ],
)
def test_they_are_made_as_at_the_head(loss_of):
    plain, found = steps_of(Reads, loss_of=loss_of)
    assert_same_step(found, plain)


def test_hooks_of_the_head_do_not_come_back_where_none_are_allowed():
    _, (loss, _) = steps_of(Reads, loss_of=where_no_hooks_are_allowed)
    assert torch.isfinite(loss)


def capped(logits):
    return torch.tanh(logits / 5) * 5


@pytest.mark.parametrize("around_the_model", [False, True])
def test_what_a_checkpoint_computed_is_freed_with_its_step(around_the_model):
    seen = []

    def loss_of(model, states):
        seen.append(weakref.ref(states))
        if around_the_model:
            return capped(model.lm_head(states)).square().mean()
        logits = capped(model.lm_head(states))
        return checkpoint(torch.square, logits, use_reentrant=False).mean()

    model = build(num_hidden_layers=1)
    model.__class__, model.loss_of = Reads, loss_of
    patch(model)
    inputs = batch()
    for _ in range(2):
        if around_the_model:
            loss = checkpoint(lambda: model(**inputs)["loss"], use_reentrant=False)
        else:
            loss = model(**inputs)["loss"]
        loss.backward()
        del loss
    gc.collect()
    assert seen and all(reference() is None for reference in seen)


class Box:
    """What a hook keeps of a tensor that is saved."""

    def __init__(self, tensor):
        self.tensor = tensor


def a_loss_that_is_added(logits):
    return logits.logsumexp(-1).square().mean()


def a_count(logits):
    with torch.no_grad():
        return logits.argmax(-1).float().mean()


@pytest.mark.parametrize("read", [a_loss_that_is_added, a_count])
def test_what_a_hook_keeps_of_them_is_freed_with_its_step(read):
    boxes = []

    def pack(tensor):
        boxes.append(weakref.ref(box := Box(tensor)))
        return box

    def loss_of(model, states):
        logits = capped(model.lm_head(states))
        loss = F.cross_entropy(logits.flatten(0, 1), batch(ignored=False)["labels"].flatten())
        return loss + read(logits)

    model = build(num_hidden_layers=1)
    model.__class__, model.loss_of = Reads, loss_of
    patch(model)
    for _ in range(2):
        with saved_tensors_hooks(pack, lambda box: box.tensor):
            loss = model(**batch())["loss"]
        loss.backward()
        del loss
    gc.collect()
    assert boxes and all(reference() is None for reference in boxes)


@pytest.fixture
def threads():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(2) as pool:
        yield pool
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_other_threads_may_read_them_at_any_time(flags, threads):
    readings = [
        lambda logits: logits.detach().float().logsumexp(-1).mean(),
        lambda logits: logits[:, :-1].detach().square().mean(),
        lambda logits: logits.detach().argmax(-1).double().mean(),
    ]
    labels = batch(ignored=False)["labels"].flatten()

    def loss_of(model, states):
        logits = model.lm_head(states)
        read = [threads.submit(one, logits) for one in readings]
        loss = F.cross_entropy(logits.flatten(0, 1), labels)
        model.read = [one.result().item() for one in read]
        return loss

    model = build(num_hidden_layers=1)
    model.__class__, model.loss_of = Reads, loss_of
    expected, wanted = gradients_of(model(**batch())["loss"], model), model.read
    patch(model, **flags)
    for _ in range(60):
        assert_same_step(gradients_of(model(**batch())["loss"], model), expected)
        assert model.read == pytest.approx(wanted, rel=1e-4)
