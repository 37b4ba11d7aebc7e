"""A norm of what a block gives and its sum with the residual: one node, with the layer's result."""

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from tiny_models import assert_same_step, build, counted, loss_and_gradients
from torch import nn

FAMILIES = {"Olmo2": 4, "Glm4": 2, "Gemma2": 2}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_post_norms_take_the_sum(family, dtype, monkeypatch):
    """Those before the last sum of a layer; a sum that a norm takes goes into that one."""
    model = build(family, dtype)
    expected = loss_and_gradients(model)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    assert calls["rms_norm_add"] == FAMILIES[family], str(handle.report())
    assert_same_step(found, expected, 2e-5 if dtype is torch.float32 else 6e-2)
    handle.unpatch()
    assert torch.equal(loss_and_gradients(model)[0], expected[0])


def test_the_row_says_so():
    report = patch(build("Olmo2")).report()
    assert report.counts["rms_norm_add"] == (2, 2)
    assert patch(build("Olmo2"), rms_norm=False).report().counts.get("rms_norm_add") is None


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16) + 0.5)
        self.variance_epsilon = 1e-5

    def forward(self, x):
        kept = x.dtype
        x = x.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x.to(kept)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = (nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))
        self.norm, self.last = Norm(), Norm()

    def forward(self, x):
        y = self.attention(x)
        y = self.norm(y)
        y = x + y
        z = self.mlp(y)
        z = self.last(z)
        z = z + y
        return z


class Seen(Block):
    """Whose norm's result is more than a term."""

    def forward(self, x):
        y = self.attention(x)
        n = self.norm(y)
        y = x + n
        z = self.mlp(y)
        z = self.last(z)
        z = z + z
        return z * n


class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers = nn.ModuleList([kind(), kind()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def step(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    return y.detach(), torch.autograd.grad(y.square().sum(), [x, *model.parameters()])


@pytest.mark.parametrize(("kind", "fused"), [(Block, 4), (Seen, 0)])
def test_what_is_written_so_and_nothing_else(kind, fused, monkeypatch):
    model, x = Model(kind), torch.randn(2, 5, 16)
    expected = step(model, x)
    patch(model)
    with counted(monkeypatch) as calls:
        y, gradients = step(model, x)
    assert calls["rms_norm_add"] == fused
    torch.testing.assert_close(y, expected[0])
    for found, wanted in zip(gradients, expected[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_hook_on_the_norm_sees_its_result(monkeypatch):
    model, x = Model(Block), torch.randn(2, 5, 16)
    patch(model)
    seen = []
    model.layers[0].norm.register_forward_hook(lambda module, args, out: seen.append(out))
    with counted(monkeypatch) as calls:
        step(model, x)
    assert calls["rms_norm_add"] == 3 and len(seen) == 1


def test_tensors_that_a_kernel_cannot_follow_are_added_as_they_were(monkeypatch):
    model, x = Model(Block), torch.randn(2, 16, 5).transpose(1, 2)
    expected = model(x)
    patch(model)
    with counted(monkeypatch) as calls:
        found = model(x)
    assert calls["rms_norm_add"] < 4
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()
    with counted(monkeypatch) as calls:
        model.to(torch.float64)(x.double())
    assert calls["rms_norm_add"] < 4


def test_it_is_called_through_the_functional_module(monkeypatch):
    """As all of ours are: what stands there is what runs."""
    model, x = Model(Block), torch.randn(2, 5, 16)
    patch(model)
    own = functional.rms_norm_add
    monkeypatch.setattr(functional, "rms_norm_add", lambda *args: own(*args) * 0)
    assert not model(x).any()
