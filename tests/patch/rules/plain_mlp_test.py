"""MLPs without a gate: the activation becomes an operator, whatever way it is written."""

import math

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import LowRank, counted, error
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN


class Mlp(nn.Module):
    def __init__(self, act, dropout=None):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.act = ACT2FN[act] if isinstance(act, str) else act
        self.dropout = dropout

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class WithDropout(Mlp):
    def forward(self, x):
        return self.dropout(self.fc2(self.act(self.fc1(x))))


class Scaled(Mlp):
    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)) * 0.5)


class Clipped(nn.Module):
    """A squared ReLU but for values that a probe need not meet."""

    def forward(self, x):
        return torch.square(F.relu(x - F.relu(x - 1e6)))


def row(mlp):
    rows = patch(nn.Sequential(mlp)).report()
    return next(one for one in rows if one.path == "0")


def step(mlp, x):
    y = mlp(x)
    return [y, *torch.autograd.grad(y.float().sin().sum(), (x, *mlp.parameters()))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2"]
)
def test_each_activation_is_found(act, dtype, monkeypatch):
    mlp = Mlp(act).to(dtype)
    x = torch.randn(2, 5, 16).to(dtype).requires_grad_()
    expected = step(mlp, x)
    found = row(mlp)
    assert found.patched and found.role == ("relu_squared" if act == "relu2" else "activation")
    with counted(monkeypatch) as calls:
        mine = step(mlp, x)
    assert calls["activate"] + calls["relu_squared"] == 1
    for one, own in zip(mine, expected, strict=True):
        assert one.dtype == own.dtype
        assert error(one, own) <= (2e-5 if dtype is torch.float32 else 4e-2)


class OfSequences(Mlp):
    def forward(self, x):
        return self.fc2(self.act(self.fc1(x.flatten(1, -2))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(16, 24, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(24, 16, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@pytest.mark.parametrize(
    ("make", "own"),
    [(lambda: Mlp("gelu"), 0), (Gated, 0), (lambda: OfSequences("gelu"), 1)],
    ids=["plain", "gated", "of_sequences"],
)
def test_pictures_have_rows_too(make, own):
    """What makes something else of four dimensions does so still."""
    mlp = make()
    x = torch.randn(2, 3, 5, 16).permute(0, 2, 1, 3).requires_grad_()
    expected = step(mlp, x)
    handle = patch(nn.Sequential(mlp))
    for one, other in zip(step(mlp, x), expected, strict=True):
        assert one.shape == other.shape and error(one, other) <= 2e-5
    mlp(torch.randn(2, 5, 16))
    assert [one.own_calls for one in handle.report() if one.patched] == [own]


@pytest.mark.parametrize("act", ["gelu_new", "relu2"])
def test_an_mlp_without_width_gives_its_bias(act):
    mlp = Mlp(act)
    assert row(mlp).patched
    mlp.fc1, mlp.fc2 = nn.Linear(16, 0), nn.Linear(0, 16)
    y = mlp(torch.randn(2, 5, 16))
    assert torch.equal(y, mlp.fc2.bias.expand(2, 5, 16))


@pytest.mark.parametrize(
    ("mlp", "why"),
    [
        (lambda: Mlp(nn.Tanh()), "no known activation"),
        (lambda: WithDropout("gelu", nn.Dropout(0.1)), "dropout"),
        (lambda: Scaled("gelu"), "scales"),
        (lambda: Mlp(Clipped()), "F.relu"),
    ],
    ids=["another", "dropout", "scaled", "clipped"],
)
def test_what_is_more_stays(mlp, why):
    assert why in row(mlp()).status


def test_projections_are_called_as_modules(monkeypatch):
    mlp, x = Mlp("gelu_new"), torch.randn(2, 5, 16)
    assert row(mlp).patched
    seen = []
    mlp.fc1.register_forward_hook(lambda module, args, out: seen.append(out))
    mlp.fc2 = LowRank(mlp.fc2)
    h = mlp.fc1(x)
    exact = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(mlp(x), mlp.fc2(exact))
    assert len(seen) == 2


def test_a_hook_on_the_activation_sends_it_back(monkeypatch):
    mlp, x = Mlp("relu2"), torch.randn(2, 5, 16)
    assert row(mlp).patched
    seen = []
    mlp.act.register_forward_hook(lambda module, args, out: seen.append(out))
    with counted(monkeypatch) as calls:
        mlp(x)
    assert len(seen) == 1 and not calls["relu_squared"]
