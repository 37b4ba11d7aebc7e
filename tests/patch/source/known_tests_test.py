"""Tests of which the outcome is known: they say which way a forward goes, and hide nothing that
runs before they are decided."""

import copy
from types import SimpleNamespace

import pytest
import torch
from liger_jit.patch import patch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class Norm(LlamaRMSNorm):
    """The formula, for a subclass to ask something before it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.calls, self.gain, self.wide = [], 1.0, False
        self.device = SimpleNamespace(type="a")
        self.config = SimpleNamespace(device=SimpleNamespace(type="a"))

    def seen(self, x):
        self.calls.append(x.shape)
        return True

    def formula(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * h.to(x.dtype)


class SeesBeforeAnArgument(Norm):
    def forward(self, x, residual=None):
        if self.seen(x) and residual is not None:
            x = x + residual
        return self.formula(x)


class SeesBeforeAnAlternative(Norm):
    def forward(self, x, residual=None):
        if self.seen(x) or residual is None:
            return self.formula(x)
        return x


class SeesBeforeADevice(Norm):
    def forward(self, x):
        x = x.float() if self.seen(x) and x.device.type == "mps" else x
        return self.formula(x)


class SeesInside(Norm):
    def forward(self, x, residual=None):
        if (self.seen(x) and residual is not None) or self.wide:
            x = x + 1
        return self.formula(x)


class Binds(Norm):
    def forward(self, x, residual=None):
        if (x := x * self.gain) is not None and residual is not None:
            x = x + residual
        return self.formula(x)


class OnItsOwnDevice(Norm):
    def forward(self, x):
        if self.device.type == "b":
            x = x * 2 + 1
        return self.formula(x)


class OnItsConfigsDevice(Norm):
    def forward(self, x):
        return self.formula(x * 2 if self.config.device.type == "b" else x)


class NotOnItsOwnDevice(Norm):
    def forward(self, x):
        return self.formula(x if self.device.type != "b" else x * 2)


REFUSED = [
    SeesBeforeAnArgument,
    SeesBeforeAnAlternative,
    SeesBeforeADevice,
    SeesInside,
    Binds,
    OnItsOwnDevice,
    OnItsConfigsDevice,
    NotOnItsOwnDevice,
]


def built(kind):
    torch.manual_seed(0)
    norm = kind(48)
    nn.init.normal_(norm.weight)
    return nn.Sequential(norm)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_runs_before_a_test_is_decided_is_not_hidden_by_it(kind):
    model = built(kind)
    own = copy.deepcopy(model)
    status = patch(model).report()[0].status
    assert status != "patched"
    x = torch.randn(3, 48)
    for one in (own, model):
        one[0].gain, one[0].device.type, one[0].config.device.type = 2.0, "b", "b"
    assert torch.equal(model(x), own(x))
    assert model[0].calls == own[0].calls


class SeesAfterAnArgument(Norm):
    def forward(self, x, residual=None):
        if residual is not None and self.seen(x):
            x = x + residual
        return self.formula(x)


class SeesAfterAnAlternative(Norm):
    def forward(self, x, residual=None):
        if residual is None or self.seen(x):
            return self.formula(x)
        return x


class SeesAfterADevice(Norm):
    def forward(self, x):
        h = x.contiguous()
        if h.device.type == "mps" and self.seen(x):
            h = h * 2
        return self.formula(h)


@pytest.mark.parametrize("kind", [SeesAfterAnArgument, SeesAfterAnAlternative, SeesAfterADevice])
def test_what_never_runs_is_not_read(kind):
    assert patch(built(kind)).report()[0].patched


class AsksForANumberFirst(Norm):
    def forward(self, x, residual=None):
        if self.wide and residual is not None:
            x = x + residual
        return self.formula(x)


def test_a_number_that_is_asked_for_first_is_watched():
    model = built(AsksForANumberFirst)
    handle = patch(model)
    x = torch.randn(3, 48)
    model(x)
    assert handle.report()[0].patched and not handle.report()[0].own_calls
    model[0].wide = True
    model(x)
    assert handle.report()[0].own_calls == 1
