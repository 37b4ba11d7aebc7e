"""A layer norm of torch with a forward of its own becomes the operator, with what it does under
autocast; others stay."""

from contextlib import contextmanager

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.installed import installed_in
from tiny_models import assert_same_step, build, counted, loss_and_gradients
from torch import nn
from torch.nn import functional as F
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P


@contextmanager
def autocast_of_gpus(dtype=torch.bfloat16):
    """As such norms ask for it, which casts their arguments on the CPU as well."""
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch.autocast("cpu", dtype):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)


class Cast(nn.LayerNorm):
    """Written anew: by a function with arguments of any number, and a context of torch."""

    def forward(self, x):
        given = cast(x.device.type, x, self.normalized_shape, 1.0 + self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(*given, self.eps)


def cast(device, *given):
    if torch.is_autocast_enabled():
        return torch.amp.autocast_mode._cast(given, device, torch.get_autocast_dtype(device))
    return given


class Plain(nn.LayerNorm):
    """As torch's, which autocast on GPUs computes in float32."""

    def forward(self, x):
        return super().forward(x)


class PlusOne(nn.LayerNorm):
    def forward(self, x):
        x = x.contiguous() if x.device.type == "mps" else x
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class Uncast(nn.LayerNorm):
    def forward(self, x):
        with torch.autocast(device_type=x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


def norm_of(kind, dtype=torch.float32, **options):
    torch.manual_seed(3)
    norm = kind(48, eps=1e-3, **options).to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


def row(norm):
    rows = patch(nn.Sequential(norm)).report()
    return next(row for row in rows if row.path == "0")


def step_of(norm, dtype):
    x = (3 * torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(5))).to(dtype)
    x.requires_grad_()
    y = norm(x)
    leaves = x, *norm.parameters()
    return y, *torch.autograd.grad(y.float().pow(3).sum(), leaves)


def assert_near(found, expected):
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype
        difference = torch.linalg.vector_norm((mine - own).float())
        assert difference <= 2e-2 * torch.linalg.vector_norm(own.float())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", [NemotronLayerNorm1P, Cast, Plain, PlusOne, Uncast])
def test_it_is_the_operator(kind, dtype, bias, monkeypatch):
    norm = norm_of(kind, dtype, bias=bias)
    expected = step_of(norm, dtype)
    assert row(norm).patched, row(norm).status
    with counted(monkeypatch) as calls:
        found = step_of(norm, dtype)
    assert calls["layer_norm"] == 1
    assert_near(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [NemotronLayerNorm1P, Cast])
def test_autocast_casts_what_it_is_given(kind, own, dtype, monkeypatch):
    norm = norm_of(kind, own)
    with autocast_of_gpus():
        expected = step_of(norm, dtype)
        assert row(norm).patched
        with counted(monkeypatch) as calls:
            found = step_of(norm, dtype)
    assert expected[0].dtype == torch.bfloat16
    assert calls["layer_norm"] == 1
    assert_near(found, expected)


def test_autocast_of_the_cpu_casts_nothing(monkeypatch):
    norm = norm_of(NemotronLayerNorm1P)
    with torch.autocast("cpu", torch.bfloat16):
        expected = step_of(norm, torch.float32)
        patch(nn.Sequential(norm))
        with counted(monkeypatch) as calls:
            found = step_of(norm, torch.float32)
        norm(torch.randn(2, 48, dtype=torch.bfloat16))
    assert found[0].dtype == torch.float32
    assert calls["layer_norm"] == 1
    assert installed_in(norm).own_calls == 1  # of two dtypes
    assert_near(found, expected)


def test_float64_is_not_cast(monkeypatch):
    norm = norm_of(NemotronLayerNorm1P, torch.float64)
    patch(nn.Sequential(norm))
    with autocast_of_gpus(), counted(monkeypatch) as calls:
        assert norm(torch.randn(2, 48).double()).dtype == torch.float64
    assert not calls["layer_norm"]


class TwiceTheOffset(Cast):
    def forward(self, x):
        given = cast(x.device.type, x, self.normalized_shape, 2.0 + self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(*given, self.eps)


class OfItsDevice(Cast):
    """Casts under autocast of the CPU as well."""

    def forward(self, x):
        given = cast_there(x.device.type, x, self.normalized_shape, 1.0 + self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(*given, self.eps)


def cast_there(device, *given):
    if torch.is_autocast_enabled(device):
        return torch.amp.autocast_mode._cast(given, device, torch.get_autocast_dtype(device))
    return given


class ToTheGpusDtype(Cast):
    def forward(self, x):
        given = cast_to_gpus(x, self.normalized_shape, 1.0 + self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(*given, self.eps)


def cast_to_gpus(*given):
    if torch.is_autocast_enabled():
        return torch.amp.autocast_mode._cast(given, "cpu", torch.get_autocast_dtype("cuda"))
    return given


class ByKeyword(Cast):
    def forward(self, x):
        given = x, self.normalized_shape, self.weight, self.bias
        cast = torch.amp.autocast_mode._cast(value=given, device_type="cpu", dtype=torch.float32)
        return F.layer_norm(*cast, self.eps)


class PartlyOutside(Cast):
    """The norm itself is under autocast."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight + 1
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps)


class AutocastOn(Cast):
    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16):
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class WithoutGradients(Cast):
    def forward(self, x):
        with torch.no_grad():
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Kept(Cast):
    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False) as self.context:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Spread(Cast):
    """In place, said by a value of a tuple."""

    def forward(self, x):
        given = F.silu(x), True
        return F.layer_norm(F.silu(*given), self.normalized_shape, self.weight, self.bias, self.eps)


class OfPictures(Cast):
    def forward(self, x):
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


class ByDevice(Cast):
    def forward(self, x):
        weight = 2 * self.weight if x.device.type == "cuda" else self.weight
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps)


class Scaled(Cast):
    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias * 2, self.eps)


OTHERS = {
    TwiceTheOffset: "no known norm",
    OfItsDevice: "no known norm",
    ToTheGpusDtype: "no known norm",
    ByKeyword: "has as many parts as its input",
    PartlyOutside: "no known norm",
    AutocastOn: "in a context of unknown effect",
    WithoutGradients: "in a context of unknown effect",
    Kept: "in a context of unknown effect",
    Spread: "works in place",
    OfPictures: "does not take rows of tokens",
    ByDevice: "branches on its input",
    Scaled: "no known norm",
}


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_what_computes_something_else_stays(kind):
    assert OTHERS[kind] in row(norm_of(kind)).status


class OfOneKind(nn.Module):
    """A norm that the rule for RMS norms reads, which does not try autocast."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(48)), 1e-3

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
            return self.weight * (x.float() * scale).to(x.dtype)


def test_who_does_not_try_autocast_allows_none():
    assert "depends on autocast" in row(OfOneKind()).status


def test_another_function_of_the_file_is_seen(monkeypatch):
    norm = norm_of(Cast)
    assert row(norm).patched
    monkeypatch.setitem(Cast.forward.__globals__, "cast", lambda device, *given: given)
    with counted(monkeypatch) as calls:
        step_of(norm, torch.float32)
    assert not calls["layer_norm"]


def test_another_context_of_transformers_is_seen(monkeypatch):
    norm = norm_of(NemotronLayerNorm1P)
    assert row(norm).patched
    turn_off = NemotronLayerNorm1P.forward.__globals__["maybe_autocast"]
    monkeypatch.setitem(turn_off.__globals__, "nullcontext", torch.no_grad)
    with counted(monkeypatch) as calls:
        norm(torch.randn(2, 48))
    assert not calls["layer_norm"]


@pytest.mark.parametrize("autocast", [False, True])
def test_nemotron_trains_as_before(autocast, monkeypatch):
    model = build("Nemotron")
    around = autocast_of_gpus if autocast else torch.enable_grad
    with around():
        expected = loss_and_gradients(model)
        handle = patch(model)
        assert all(row.patched for row in handle.report()), str(handle.report())
        with counted(monkeypatch) as calls:
            found = loss_and_gradients(model)
        handle.unpatch()
        again = loss_and_gradients(model)
    # The sum is of float32 under autocast, and its norm of 16 bits.
    assert calls["fused_add_layer_norm"] == (0 if autocast else 2)
    assert calls["layer_norm"] == (5 if autocast else 3)
    assert_same_step(found, expected, 6e-2 if autocast else 2e-5)
    assert torch.equal(again[0], expected[0])
