"""Norms that do more than their formula, hidden in ways that a probe does not meet."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import build
from torch.nn import functional as F
from watched_test import Norm

LOG = []


def halving(forward):
    """A decorator as everybody writes them, which does something for large inputs alone."""
    from functools import wraps

    @wraps(forward)
    def wrapped(self, x):
        return forward(self, x) if x.abs().max() < 1e6 else forward(self, x / 2)

    return wrapped


class Decorated(Norm):
    @halving
    def forward(self, x):
        return self.formula(x)


class Reassigned(Norm):
    def forward(self, x, weight=None):
        weight = self.weight
        if weight is not None:
            x = x.clamp(-1e6, 1e6)
        return self.formula(x)


class Checking(Norm):
    def forward(self, x):
        if LOG.count(x.shape):
            raise ValueError("seen already")
        return self.formula(x)


class Private(Norm):
    def __init__(self, size):
        super().__init__(size)

    def forward(self, x):
        return self.formula(x) * self.__gain

    __gain = 1.0


class Comparing(Norm):
    def forward(self, x):
        return self.formula(x * (x < 1e6))


class Choosing(Norm):
    def forward(self, x):
        return self.formula(x) * (x.shape[1] > 100 and 2.0 or 1.0)


class Rectified(Norm):
    def forward(self, x):
        return self.formula(x - F.relu(x - 1e6))


class ByWeight(Norm):
    def forward(self, x):
        return self.formula(x) if self.weight[0] < 1e6 else x


class Closing(Norm):
    def forward(self, x):
        if x.shape[1] > 100:
            raise ValueError("too long")
        return self.formula(x)


class Called(Norm):
    def limited(self, x, limit=None):
        if limit is not None:
            x = x.clamp(max=limit)
        return self.formula(x)

    def forward(self, x):
        return self.limited(x, 1e6)


class Scaled(Norm):
    def forward(self, x, scale=None):
        return self.formula(x) * F.silu(scale.to(x.dtype))


class Into(Norm):
    def forward(self, x):
        y = self.formula(x)
        return torch.mul(y, 1.0, out=y)


@pytest.mark.parametrize(
    "kind, reason",
    [
        (Decorated, "is decorated"),
        (Reassigned, "branches on its input"),
        (Checking, "branches on a call"),
        (Into, "calls with out=y"),
        (Scaled, "does not run without scale"),
        (Private, "reads __gain"),
        (Comparing, "x < 1000000.0"),
        (Choosing, "x.shape[1] > 100"),
        (Rectified, "F.relu"),
        (ByWeight, "branches on"),
        (Closing, "branches on"),
        (Called, "branches on its input"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_norm_whose_effects_are_hidden(kind, reason):
    model = build()
    model.model.norm.__class__ = kind
    status = {row.path: row.status for row in patch(model).report()}["model.norm"]
    assert reason in status
