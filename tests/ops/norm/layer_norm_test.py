"""LayerNorm against float64, for every dtype, awkward size or view, and rows far from zero."""

import pytest
import torch
from accuracy import (
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import layer_norm
from torch.nn import functional as F

WRT = ("x", "weight", "bias")


def reference(x, weight=None, bias=None, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def check(inputs, wrt=WRT):
    return assert_as_exact_as_eager(layer_norm, reference, inputs, wrt)


def tensors(rows, size, dtype, device, shift=0.0):
    return {
        "x": (torch.randn(rows, size, device=device) + shift).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
        "bias": (0.3 * torch.randn(size, device=device)).to(dtype),
    }


# 7, 129: no vector load fits; 8: one vector; 64: one warp; 1000: a ragged block; 4096: the usual;
# 20000: longer than any block holds in registers at once.
@pytest.mark.parametrize("size", [7, 8, 64, 129, 1000, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


@pytest.mark.parametrize("size", [129, 1000])
def test_every_dtype_is_as_exact_as_eager(device, size):
    for dtype in dtypes_of(device):
        check(tensors(33, size, dtype, device))


def test_a_mean_far_above_the_deviation_costs_no_digits(device):
    # E[x^2] - E[x]^2 would lose every digit of the variance here.
    inputs = tensors(16, 1000, torch.float32, device, shift=3000.0)
    check(inputs)
    y = layer_norm(inputs["x"])
    assert (y.var(-1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("size", [129, 4096])
def test_a_row_that_begins_far_from_its_mean_costs_no_digits(device, size):
    inputs = tensors(16, size, torch.float32, device)
    inputs["x"][:, :8] += 1000.0
    check(inputs)


def test_a_row_of_equal_values_is_the_bias(device):
    inputs = tensors(4, 129, torch.float32, device)
    inputs["x"] = torch.full_like(inputs["x"], 3.5)
    assert torch.equal(layer_norm(**inputs), inputs["bias"].expand(4, -1))


@pytest.mark.parametrize("given", [(), ("weight",), ("bias",)])
def test_weight_and_bias_may_be_absent(device, given):
    inputs = tensors(17, 64, torch.bfloat16, device)
    inputs = {name: inputs[name] for name in ("x", *given)}
    check(inputs, wrt=tuple(inputs))


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("bias",), ("weight", "bias")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(17, 64, torch.float32, device)
    grad_output = [torch.randn_like(inputs["x"])]
    every = run(layer_norm, inputs, WRT, grad_output)
    some = run(layer_norm, inputs, wrt, grad_output)
    assert some.keys() == {"output 0", *(f"gradient of {name}" for name in wrt)}
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], rtol=1e-6, atol=1e-6)


def test_weights_of_another_dtype_give_the_result_of_wide_weights(device):
    for dtype in HALVES:
        inputs = tensors(9, 64, dtype, device)
        wide = {**inputs, "weight": inputs["weight"].float(), "bias": inputs["bias"].float()}
        assert torch.equal(layer_norm(**wide), layer_norm(**inputs))


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors(6, 64, torch.bfloat16, device)
    grad_output = [torch.randn_like(inputs["x"])]
    plain = run(layer_norm, inputs, WRT, grad_output)
    for name, view in strided_forms(inputs["x"]):
        seen = run(layer_norm, {**inputs, "x": view}, WRT, grad_output)
        for key, value in plain.items():
            assert torch.equal(seen[key], value), f"{name}: {key}"


def test_no_rows_give_no_output_and_zero_gradients(device):
    inputs = tensors(0, 64, torch.float32, device)
    found = run(layer_norm, inputs, WRT)
    assert found["output 0"].shape == (0, 64)
    assert not found["gradient of weight"].any() and not found["gradient of bias"].any()


def test_special_values_give_what_eager_gives(device):
    x = torch.randn(6, 64, device=device)
    x[0, 3] = float("inf")
    x[1, 5] = float("nan")
    x[2] *= 1e-42
    x[3] *= 1e18
    inputs = {**tensors(6, 64, torch.float32, device), "x": x}
    assert_same_specials(layer_norm(**inputs), reference(**inputs))


def test_errors_name_the_argument_and_its_value(device):
    x = torch.randn(4, 64, device=device)
    weight, bias = torch.ones(63, device=device), torch.ones(65, device=device)
    assert_refused(lambda: layer_norm(x, weight), "layer_norm", "weight", "63", "64")
    assert_refused(lambda: layer_norm(x, None, bias), "layer_norm", "bias", "65", "64")
    assert_refused(lambda: layer_norm(x, eps=-1.0), "layer_norm", "eps", "-1")
    assert_refused(lambda: layer_norm(x.int()), "layer_norm", "x", "i32")
