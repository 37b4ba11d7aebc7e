"""Norms in float64: replaced where they were seen to be of their form there as well."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import counted, error
from torch import nn
from torch.nn import functional as F

WIDTH = 16


class Rms(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(WIDTH) + 0.5), 1e-6

    def scaled(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def forward(self, x):
        return self.weight * self.scaled(x)


class OtherRms(Rms):
    def forward(self, x):
        y = self.weight * self.scaled(x)
        return y * 2 if self.weight.dtype == torch.float64 else y


class Gated(Rms):
    def forward(self, x, gate):
        y = self.weight * self.scaled(x)
        return (y * F.silu(gate.float())).to(x.dtype)


class OtherGated(Gated):
    def forward(self, x, gate):
        y = self.weight * self.scaled(x)
        y = (y * F.silu(gate.float())).to(x.dtype)
        return y * 2 if self.weight.dtype == torch.float64 else y


class Offset(nn.LayerNorm):
    def __init__(self):
        super().__init__(WIDTH)

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class OtherOffset(Offset):
    def forward(self, x):
        weight = self.weight + 2 if self.weight.dtype == torch.float64 else self.weight + 1
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps)


OPERATORS = {
    Rms: ("rms_norm", 1), OtherRms: ("rms_norm", 0),
    Gated: ("gated_rms_norm", 1), OtherGated: ("gated_rms_norm", 0),
    Offset: ("layer_norm", 1), OtherOffset: ("layer_norm", 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_a_norm_is_replaced_in_float64_where_it_was_tried_there(monkeypatch, kind):
    model = nn.Sequential(kind())
    row = next(row for row in patch(model).report() if row.path == "0")
    assert row.status == "patched"
    norm = model.double()[0]
    inputs = torch.randn(2 if "Gated" in kind.__name__ else 1, 3, 5, WIDTH, dtype=torch.float64)
    expected = kind.forward(norm, *inputs)
    operator, times = OPERATORS[kind]
    with counted(monkeypatch) as calls:
        found = norm(*inputs)
    assert calls[operator] == times
    assert error(found, expected) <= 1e-6
