"""Logits that C++ code holds before they are computed are the very ones that autograd goes by."""

import warnings

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, gradients_of
from torch.nn import functional as F
from transformers import LlamaForCausalLM

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that scripts are deprecated

    @torch.jit.script
    def scripted_shift(x: torch.Tensor):
        return x[:, :-1]

    @torch.jit.script
    def scripted_z_loss(x: torch.Tensor):
        return x.logsumexp(-1).square().mean()


def z_loss(x):
    return x.logsumexp(-1).square().mean()


VIEWS = {
    "script": scripted_shift,
    "vmap": lambda x: torch.vmap(lambda row: row[:-1])(x),
    "vjp": lambda x: torch.func.vjp(lambda t: t[:, :-1], x)[0],
}
LOSSES = {
    "script": scripted_z_loss,
    "vmap": lambda x: torch.vmap(z_loss)(x).mean(),
    "gradient": lambda x: torch.func.grad(z_loss)(x).square().sum(),
    "copy": lambda x: torch.tensor(x).square().mean(),
}
LABELS = batch(ignored=False)["labels"]


def loss_of(logits, labels=LABELS):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def write_to_the_logits(logits, view):
    view = view(logits)
    logits[..., 60:] = -1e4
    return loss_of(view, LABELS[:, 1:])


def write_to_the_view(logits, view):
    view(logits)[..., 60:] = -1e4
    return loss_of(logits)


def write_to_both(logits, view):
    view = view(logits)
    logits.mul_(1.5)
    view.add_(0.5)
    return loss_of(logits) + loss_of(view, LABELS[:, 1:])


def hook_after(logits, loss):
    other = loss(logits)
    logits.register_hook(lambda gradient: gradient * 10)
    return loss_of(logits) + other


def hook_and_write(logits, loss):
    other = loss(logits).detach()
    logits.register_hook(lambda gradient: gradient * 10)
    logits.mul_(1.5)
    return loss_of(logits) + other


def take_off(logits, loss):
    loss(logits)
    return loss_of(logits.detach_()) + logits.requires_grad_().sum() * 0


def read_again(logits, loss):
    other = loss(logits)
    assert len(logits.tolist()) == len(LABELS) and logits.detach().numpy().shape == logits.shape
    return loss_of(logits) + other + logits.float().logsumexp(-1).mean()


class Holds(LlamaForCausalLM):
    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        return {"loss": self.act(logits, self.held_by)}


CASES = [
    *[(act, view) for act in (write_to_the_logits, write_to_the_view) for view in VIEWS.items()],
    (write_to_both, ("script", scripted_shift)),
    *[
        (act, loss)
        for act in (hook_after, hook_and_write, take_off, read_again)
        for loss in LOSSES.items()
    ],
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("act", "held_by"), CASES, ids=[f"{act.__name__} {name}" for act, (name, _) in CASES]
)
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_what_is_done_to_them_after_that_is_done_to_what_is_held(act, held_by, fused):
    model = build(num_hidden_layers=1)
    model.__class__, model.act, model.held_by = Holds, act, held_by[1]
    expected = gradients_of(model(**batch())["loss"], model)
    patch(model, **({} if fused else {"cross_entropy": True, "fused_linear_cross_entropy": False}))
    assert_same_step(gradients_of(model(**batch())["loss"], model), expected)
