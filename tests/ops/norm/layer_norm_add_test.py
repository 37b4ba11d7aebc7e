"""LayerNorm and the residual addition after it: the numbers of the two steps."""

import pytest
import torch
from accuracy import (
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit import transformers as liger
from liger_jit.functional import layer_norm, layer_norm_add
from norm_and_sum import tensors
from torch.nn import functional as F

WRT = ("x", "residual", "weight", "bias")


def reference(x, residual, weight=None, bias=None, eps=1e-6):
    return residual + F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def check(inputs, wrt=WRT):
    return assert_as_exact_as_eager(layer_norm_add, reference, inputs, wrt)


# 7: no vector load fits; 1023, 1025: a ragged block; 4096: the usual; 20000: longer than any block.
@pytest.mark.parametrize("size", [7, 1023, 1025, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        inputs = tensors(33, 129, dtype, device)
        for names in (WRT, WRT[:3], WRT[:2], ("x", "residual", "bias")):
            check({name: inputs[name] for name in names}, names)


@pytest.mark.parametrize("size", [129, 4096, 20000])
def test_the_sum_has_the_bits_of_two_separate_steps(device, size):
    for dtype in dtypes_of(device):
        x, residual, weight, bias = tensors(16, size, dtype, device, shift=5.0).values()
        wanted = residual + layer_norm(x, weight, bias, 1e-5)
        assert torch.equal(layer_norm_add(x, residual, weight, bias, 1e-5), wanted)


def test_gradients_have_the_bits_of_two_separate_steps(device):
    inputs = tensors(16, 129, torch.bfloat16, device)
    grads = [torch.randn(16, 129, device=device).bfloat16()]
    mine = run(layer_norm_add, inputs, WRT, grads)
    steps = run(
        lambda x, residual, weight, bias: residual + layer_norm(x, weight, bias),
        inputs,
        WRT,
        grads,
    )
    for name, value in steps.items():
        assert torch.equal(mine[name], value), name


def test_the_gradient_of_the_residual_is_the_one_that_arrives(device):
    x, residual, weight, bias = tensors(9, 64, torch.bfloat16, device).values()
    x.requires_grad_(), residual.requires_grad_()
    arrives = torch.randn_like(residual)
    y = layer_norm_add(x, residual, weight, bias)
    (gradient, _) = torch.autograd.grad(y, [residual, x], arrives)
    assert gradient.data_ptr() == arrives.data_ptr()


def test_a_mean_far_above_the_deviation_costs_no_digits(device):
    check(tensors(16, 1000, torch.float32, device, shift=3000.0))


@pytest.mark.parametrize("wrt", [("x",), ("residual",), ("weight",), ("residual", "bias")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(layer_norm_add, inputs, WRT)
    result = run(layer_norm_add, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_views_and_no_rows_agree_with_the_plain_case(device):
    inputs = tensors(16, 64, torch.bfloat16, device)
    wanted = run(layer_norm_add, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["residual"])[::-1], strict=True)
    for (name, x), (other, residual) in views:
        result = run(layer_norm_add, {**inputs, "x": x, "residual": residual}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    result = run(layer_norm_add, {**inputs, "x": x[:0], "residual": residual[:0]}, WRT)
    assert result["output 0"].shape == (0, 64)
    assert torch.equal(result["gradient of bias"], torch.zeros_like(inputs["bias"]))


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(5, 64, torch.bfloat16, device)
    inputs["x"][0, 3] = float("inf")
    inputs["residual"][1, 5] = float("nan")
    inputs["x"][2] = 3.5
    inputs["residual"][3, 7] = float("-inf")
    assert_same_specials(layer_norm_add(**inputs), reference(**inputs))


def test_the_module_is_the_norm_of_its_name_and_the_sum(device):
    mine = liger.LigerLayerNormAdd(32, 1e-5, bias=True).to(device)
    theirs = torch.nn.LayerNorm(32, 1e-5, device=device)
    x, residual = torch.randn(2, 2, 5, 32, device=device)
    with torch.no_grad():
        theirs.weight.normal_(), theirs.bias.normal_()
    mine.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(mine(x, residual), residual + theirs(x))


def test_errors_name_the_argument_and_its_value(device):
    x, residual, weight, bias = tensors(4, 64, torch.float32, device).values()
    op = "layer_norm_add"
    assert_refused(lambda: layer_norm_add(x, residual[:3], weight), op, "residual", "3", "4")
    assert_refused(lambda: layer_norm_add(x, residual.half(), weight), op, "residual", "16")
    assert_refused(lambda: layer_norm_add(x, residual, weight, bias[:8]), op, "bias", "8", "64")
    assert_refused(lambda: layer_norm_add(x, residual, weight, bias, -1.0), op, "eps", "-1")
