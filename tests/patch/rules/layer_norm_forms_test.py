"""A LayerNorm that a model writes out becomes the operator; others stay."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import build, counted
from torch import nn
from torch.nn import functional as F


class Written(nn.Module):
    """As Cohere's."""

    def __init__(self, width=48):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.variance_epsilon = 1e-3

    def forward(self, x):
        kept = x.dtype
        x = x.to(torch.float32)
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.variance_epsilon)
        return (self.weight.to(torch.float32) * x).to(kept)


class RoundedBefore(Written):
    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) * torch.rsqrt(variance + self.variance_epsilon))


class WithoutMean(Written):
    def forward(self, x):
        variance = x.pow(2).mean(-1, keepdim=True)
        mean = x.mean(-1, keepdim=True)
        return self.weight * ((x - mean) * torch.rsqrt(variance + self.variance_epsilon))


def row(module):
    rows = patch(nn.Sequential(module)).report()
    return next(row for row in rows if row.path == "0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, None])
def test_it_is_the_operator(dtype, weight_dtype, monkeypatch):
    norm = Written().to(weight_dtype or dtype)
    x = torch.randn(2, 3, 48).to(dtype).requires_grad_()

    def step():
        y = norm(x)
        return y, *torch.autograd.grad(y.float().square().sum(), (x, norm.weight))

    expected = step()
    assert row(norm).patched
    with counted(monkeypatch) as calls:
        found = step()
    assert calls["layer_norm"] == 1
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype
        torch.testing.assert_close(mine.float(), own.float(), rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("kind", [RoundedBefore, WithoutMean])
def test_what_is_none_stays(kind):
    assert "no known norm computes what it does" in row(kind()).status


def test_other_tensors_take_its_own_forward(monkeypatch):
    norm = Written()
    assert row(norm).patched
    with counted(monkeypatch) as calls:
        norm(torch.randn(2, 48, 3).transpose(1, 2))
        norm.double()(torch.randn(2, 48).double())
    assert not calls["layer_norm"]


def test_cohere_has_it():
    report = patch(build("Cohere")).report()
    assert report.counts["layer_norm"] == (3, 3), str(report)


class WeightlessNorm(nn.Module):
    """As OLMo's: its epsilon stands in its forward."""

    def __init__(self, width=48):
        super().__init__()
        self.normalized_shape = (width,)

    def forward(self, x):
        wide = x.to(torch.float32)
        return F.layer_norm(wide, self.normalized_shape, None, None, eps=1e-3).to(x.dtype)


class NormWithMoreOfTheMean(WeightlessNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, None, None, eps=1e-3) + 1e-3 * x.mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_without_weights_is_the_operator(dtype, monkeypatch):
    norm = WeightlessNorm()
    x = (1e-2 * torch.randn(2, 3, 48)).to(dtype).requires_grad_()

    def step():
        y = norm(x)
        return y, *torch.autograd.grad(y.float().pow(3).sum(), x)

    expected = step()
    assert row(norm).patched
    with counted(monkeypatch) as calls:
        found = step()
        norm(torch.randn(2, 48).double())  # in float32 there
    assert calls["layer_norm"] == 1
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype
        difference = torch.linalg.vector_norm((mine - own).float())
        assert difference <= tolerance * torch.linalg.vector_norm(own.float())


def test_one_without_weights_that_is_more_stays():
    assert not row(NormWithMoreOfTheMean()).patched


def test_olmo_has_it():
    report = patch(build("Olmo")).report()
    assert report.counts["layer_norm"] == (5, 5), str(report)
    assert report.counts["fused_add_layer_norm"] == (2, 2), str(report)
