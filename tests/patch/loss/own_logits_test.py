"""The report of a head: steps with labels in which it made its own logits, and why."""

import copy

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import Checkpointed, LowRank, batch, build, loss_and_gradients
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

LOSSES = pytest.mark.parametrize(
    "role", ["fused_linear_cross_entropy", "cross_entropy"], ids=["fused", "of logits"]
)


def patched(role="fused_linear_cross_entropy"):
    model = build()
    fused = role.startswith("fused")
    return model, patch(model, fused_linear_cross_entropy=fused, cross_entropy=not fused)


def row_of_head(handle):
    (row,) = [row for row in handle.report() if row.path == "lm_head"]
    return row


def a_hook(model):
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 2 * logits)


def a_loss_of_its_own(model):
    model.loss_function = lambda logits, **kwargs: logits.logsumexp(-1).mean()


def a_cross_entropy_that_is_not_fused(model):
    def loss(logits, labels, **kwargs):
        shares = F.one_hot(labels.clamp(min=0), logits.shape[-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), shares.flatten(0, 1))

    model.loss_function = loss


def another_forward(model):
    own = model.lm_head.forward
    model.lm_head.forward = lambda states: own(states) * 2


def another_class(model):
    model.lm_head.__class__ = type("Linear", (nn.Linear,), {"forward": nn.Linear.forward})


def an_adapter(model):
    model.lm_head = LowRank(model.lm_head)


def a_checkpoint(model):
    model.lm_head = Checkpointed(model.lm_head)


def a_loss_that_is_compiled(model):
    def loss(logits, **kwargs):
        return logits.logsumexp(-1).mean()

    model.loss_function = torch.compile(loss, backend="eager")


def a_head_that_is_not_called(model):
    model.kept, model.lm_head = model.lm_head, nn.Linear(32, 97)


@LOSSES
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (a_hook, "it has hooks"),
        (a_loss_of_its_own, "needed by a call of logsumexp"),
        (a_cross_entropy_that_is_not_fused, "needed by a call of cross_entropy"),
        (another_forward, "another forward is over its own"),
        (another_class, "its class has another forward"),
        (an_adapter, "no plain tensor, or none that outlives its call"),
        (a_checkpoint, "in a checkpoint that the loss is not in"),
        (a_loss_that_is_compiled, "loss function is compiled by itself"),
        (a_head_that_is_not_called, "it was not called"),
    ],
)
def test_a_step_whose_loss_is_not_of_lazy_logits_counts(change, reason, role):
    model, handle = patched(role)
    loss_and_gradients(model)
    assert row_of_head(handle).own_calls == 0
    change(model)
    for _ in range(2):
        loss_and_gradients(model)
    row = row_of_head(handle)
    assert row.role == role and row.patched
    assert row.own_calls == 2 and reason in row.why
    assert "its own forward 2 times: " in str(handle.report())


class Mode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@LOSSES
def test_so_does_one_that_others_watch(role):
    model, handle = patched(role)
    hook = register_module_forward_hook(lambda *given: None)
    try:
        loss_and_gradients(model)
    finally:
        hook.remove()
    row = row_of_head(handle)
    assert row.own_calls == 1 and row.why == "it has hooks, or all modules have"
    with Mode():
        loss_and_gradients(model)
    row = row_of_head(handle)
    assert row.own_calls == 2 and row.why == "a mode of torch that sees its operations is on"


def test_so_does_one_that_is_asked_for_its_logits():
    model, handle = patched()
    model(**batch(), skip_logits=False)
    model.eval()(**batch())
    row = row_of_head(handle)
    assert row.own_calls == 2 and "skip_logits=False" in row.why
    model(**batch(), skip_logits=True)
    assert row_of_head(handle).own_calls == 2


@LOSSES
def test_what_asks_for_no_loss_or_gets_a_fused_one_does_not_count(role):
    model, handle = patched(role)
    loss_and_gradients(model)
    with torch.no_grad():
        model(**batch())
    model(**batch(), return_token_accuracy=True)
    ids = batch()["input_ids"]
    model(input_ids=ids)
    model.generate(ids, max_new_tokens=2, eos_token_id=None)
    torch._dynamo.reset()
    loss_and_gradients(torch.compile(model, backend="eager"))
    assert row_of_head(handle).own_calls == 0


def test_a_module_that_was_taken_out_of_the_model_is_said_to_be():
    model, handle = patched()
    twin = copy.deepcopy(handle)
    layers = model.model.layers
    model.lm_head, model.model.norm = nn.Linear(32, 97), nn.LayerNorm(32)
    layers[0].mlp = nn.Linear(32, 32)
    layers[1].mlp = nn.Sequential(layers[1].mlp)  # which is still there
    loss_and_gradients(model)
    gone = {row.path for row in handle.report() if row.status == "no longer part of the model"}
    assert gone == {"lm_head", "model.norm", "model.layers.0.mlp"}
    assert not any(row.patched for row in handle.report() if row.path in gone)
    assert all(row.patched for row in handle.report() if row.path not in gone)
    assert all(row.patched for row in twin.report())
    assert {row.path for row in copy.deepcopy(handle).report() if not row.patched} == gone
    del model.model.layers[0]
    gone = {row.path for row in handle.report() if not row.patched}
    assert {path for path in gone if "layers.1" in path} == set()
    assert {"model.layers.0", "model.layers.0.self_attn", "model.layers.0.input_layernorm"} <= gone
