"""PolyNorm against float64, for every dtype, awkward sizes, views, and powers that are large."""

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
from liger_jit.functional import poly_norm
from liger_jit.transformers import LigerPolyNorm
from liger_jit.transformers.functional import liger_poly_norm

WRT = ("x", "weight", "bias")


def reference(x, weight, bias, eps=1e-6):
    def normed(power):
        return power * torch.rsqrt(power.pow(2).mean(-1, keepdim=True) + eps)

    return weight[0] * normed(x**3) + weight[1] * normed(x**2) + weight[2] * normed(x) + bias


def check(inputs, wrt=WRT, slack=0.0):
    return assert_as_exact_as_eager(poly_norm, reference, inputs, wrt, slack_of_products=slack)


def tensors(rows, size, dtype, device, scale=1.0):
    return {
        "x": (scale * torch.randn(rows, size, device=device)).to(dtype),
        "weight": torch.tensor([0.5, -0.4, 0.9], device=device).to(dtype),
        "bias": torch.tensor([0.3], device=device).to(dtype),
    }


# 1, 7, 1025: no vector load fits; 1023: a ragged last one; 20000: longer than any block holds in
# registers at once.
@pytest.mark.parametrize("size", [1, 7, 8, 64, 1023, 1025, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


@pytest.mark.parametrize("size", [129, 1000])
def test_every_dtype_is_as_exact_as_eager(device, size):
    for dtype in dtypes_of(device):
        check(tensors(33, size, dtype, device))


def test_more_rows_than_partial_sums(device):
    check(tensors(301, 40, torch.float32, device))


# Sixth powers from 1e-24 to 1e30: a float32 holds what a half does not.
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e2, 1e5])
def test_small_and_large_values_cost_no_digits(device, scale):
    # The weight's three gradients are sums of numbers of both signs, which may cancel.
    check(tensors(17, 1000, torch.float32, device, scale), slack=2e-5)
    check(tensors(17, 1000, torch.bfloat16, device, scale))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_bias_may_have_any_shape_of_one_element(device, shape):
    inputs = tensors(9, 64, torch.float32, device)
    inputs["bias"] = torch.full(shape, 0.7, device=device)
    assert check(inputs)["gradient of bias"].shape == shape


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("bias",), ("weight", "bias"), ("x", "bias")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(17, 64, torch.float32, device)
    grad_output = [torch.randn_like(inputs["x"])]
    every = run(poly_norm, inputs, WRT, grad_output)
    some = run(poly_norm, inputs, wrt, grad_output)
    assert some.keys() == {"output 0", *(f"gradient of {name}" for name in wrt)}
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], rtol=1e-6, atol=1e-6)


def test_eps_is_added_to_each_mean_square(device):
    inputs = tensors(9, 64, torch.float64 if device == "cpu" else torch.float32, device)
    for eps in (0.0, 1e-2, 3.0):
        torch.testing.assert_close(poly_norm(**inputs, eps=eps), reference(**inputs, eps=eps))


def test_weights_of_another_dtype_give_the_result_of_wide_weights(device):
    for dtype in HALVES:
        inputs = tensors(9, 64, dtype, device)
        wide = {n: v if n == "x" else v.float() for n, v in inputs.items()}
        assert torch.equal(poly_norm(**wide), poly_norm(**inputs))
        assert run(poly_norm, wide, WRT)["gradient of weight"].dtype == torch.float32


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors(6, 64, torch.bfloat16, device)
    grad_output = [torch.randn_like(inputs["x"])]
    plain = run(poly_norm, inputs, WRT, grad_output)
    for name, view in strided_forms(inputs["x"]):
        seen = run(poly_norm, {**inputs, "x": view}, WRT, grad_output)
        for key, value in plain.items():
            assert torch.equal(seen[key], value), f"{name}: {key}"


def test_no_rows_give_no_output_and_zero_gradients(device):
    found = run(poly_norm, tensors(0, 64, torch.float32, device), WRT)
    assert found["output 0"].shape == (0, 64)
    assert not found["gradient of weight"].any() and not found["gradient of bias"].any()


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(5, 64, torch.float32, device)
    inputs["x"][0, 3] = float("nan")
    inputs["x"][1, 5] = float("inf")
    inputs["x"][2] = 0
    inputs["x"][3] *= 1e-30
    assert_same_specials(poly_norm(**inputs), reference(**inputs))


def test_the_module_starts_as_ligers_and_leaves_its_input(device):
    module = LigerPolyNorm().to(device)
    assert module.weight.tolist() == pytest.approx([1 / 3] * 3)
    assert module.bias.shape == () and module.bias.item() == 1.0
    x = torch.randn(5, 64, device=device)
    before = x.clone()
    leaf = x.requires_grad_()
    y = module(leaf)
    torch.testing.assert_close(y, reference(x, module.weight, module.bias))
    assert torch.equal(y, liger_poly_norm(x, module.weight, module.bias))
    y.sum().backward()
    assert torch.equal(x.detach(), before)
    assert module.weight.grad.shape == (3,) and module.bias.grad.shape == ()


def test_errors_name_the_argument_and_its_value(device):
    inputs = tensors(4, 64, torch.float32, device)
    x, weight, bias = inputs.values()
    assert_refused(
        lambda: poly_norm(x, weight[:2], bias), "poly_norm", "weight", r"\[2\]", r"\[3\]"
    )
    assert_refused(lambda: poly_norm(x, weight, weight), "poly_norm", "bias", r"\[3\]", "one")
    assert_refused(lambda: poly_norm(x, weight, bias, -1.0), "poly_norm", "eps", "-1")
    assert_refused(lambda: poly_norm(x.int(), weight, bias), "poly_norm", "x", "i32")
