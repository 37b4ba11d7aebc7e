"""Residual addition with LayerNorm: the same numbers as the two steps, and their joint gradient."""

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
from liger_jit.functional import fused_add_layer_norm, layer_norm
from norm_and_sum import tensors
from torch.nn import functional as F

WRT = ("x", "residual", "weight", "bias")


def reference(x, residual, weight=None, bias=None, eps=1e-6):
    total = x + residual
    return F.layer_norm(total, x.shape[-1:], weight, bias, eps), total


def check(inputs, wrt=WRT):
    return assert_as_exact_as_eager(fused_add_layer_norm, reference, inputs, wrt)


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
def test_the_sum_and_the_norm_have_the_bits_of_two_separate_steps(device, size):
    for dtype in dtypes_of(device):
        x, residual, weight, bias = tensors(16, size, dtype, device, shift=5.0).values()
        y, total = fused_add_layer_norm(x, residual, weight, bias, 1e-5)
        assert torch.equal(total, x + residual)
        assert torch.equal(y, layer_norm(total, weight, bias, 1e-5))


def test_x_and_residual_get_the_same_gradient(device):
    result = run(fused_add_layer_norm, tensors(9, 64, torch.float32, device), WRT)
    assert torch.equal(result["gradient of x"], result["gradient of residual"])


@pytest.mark.parametrize("size", [64, 20000])
def test_a_gradient_through_only_one_output_is_right(device, size):
    inputs = tensors(9, size, torch.float32, device)
    for output, wrt in ((0, WRT), (1, WRT[:2])):
        assert_as_exact_as_eager(
            lambda output=output, **all_: fused_add_layer_norm(**all_)[output],
            lambda output=output, **all_: reference(**all_)[output],
            inputs,
            wrt,
        )


def test_a_sum_that_nobody_needs_costs_its_backward_nothing(device):
    """Nothing is filled with zeros for it: the bits are those of the norm's own backward."""
    inputs = tensors(9, 64, torch.bfloat16, device)
    grads = [torch.randn(9, 64, device=device).bfloat16()]
    mine = run(lambda **all_: fused_add_layer_norm(**all_)[0], inputs, WRT, grads)
    steps = run(
        lambda x, residual, weight, bias: layer_norm(x + residual, weight, bias),
        inputs,
        WRT,
        grads,
    )
    for name, value in steps.items():
        assert torch.equal(mine[name], value), name
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y, _ = fused_add_layer_norm(**leaves)
    with torch.profiler.profile() as profile:
        y.backward(grads[0])
    called = [event.name for event in profile.events()]
    assert "liger_jit::fused_add_layer_norm_backward" in called
    assert not any("zero" in name or "fill" in name for name in called)


def test_gradients_kept_apart_do_not_share_memory(device):
    # Optimisers and hooks write into gradients in place.
    x, residual, weight, bias = tensors(4, 64, torch.float32, device).values()
    x.requires_grad_(), residual.requires_grad_()
    sum(out.sum() for out in fused_add_layer_norm(x, residual, weight, bias)).backward()
    kept = residual.grad.clone()
    x.grad.zero_()
    assert torch.equal(residual.grad, kept)


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("bias",), ("residual", "bias")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(fused_add_layer_norm, inputs, WRT)
    result = run(fused_add_layer_norm, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_views_no_rows_and_more_dimensions_agree_with_the_plain_case(device):
    inputs = tensors(16, 64, torch.bfloat16, device)
    wanted = run(fused_add_layer_norm, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["residual"])[::-1], strict=True)
    for (name, x), (other, residual) in views:
        result = run(fused_add_layer_norm, {**inputs, "x": x, "residual": residual}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    folded = {name: inputs[name].view(2, 8, 64) for name in ("x", "residual")}
    result = run(fused_add_layer_norm, {**inputs, **folded}, WRT)
    assert torch.equal(result["output 0"].view(16, 64), wanted["output 0"])
    assert torch.equal(result["gradient of x"].view(16, 64), wanted["gradient of x"])
    empty = {name: inputs[name][:0] for name in ("x", "residual")}
    result = run(fused_add_layer_norm, {**inputs, **empty}, WRT)
    assert result["output 1"].shape == (0, 64)
    for name in ("weight", "bias"):
        assert torch.equal(result[f"gradient of {name}"], torch.zeros_like(inputs[name]))


def test_a_mean_far_from_zero_costs_no_digits(device):
    check(tensors(17, 1000, torch.float32, device, shift=1000.0))


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(5, 64, torch.bfloat16, device)
    inputs["x"][0, 3] = float("inf")
    inputs["residual"][1, 5] = float("nan")
    inputs["x"][2], inputs["residual"][2] = 1.0, -1.0  # a sum of exactly zero
    for mine, theirs in zip(fused_add_layer_norm(**inputs), reference(**inputs), strict=True):
        assert_same_specials(mine, theirs)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(9, 64, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(fused_add_layer_norm, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_errors_name_the_argument_and_its_value(device):
    x, residual, weight, bias = tensors(4, 64, torch.float32, device).values()
    op = "fused_add_layer_norm"
    refused = (
        (lambda: fused_add_layer_norm(x, residual[:3], weight), "residual", "3", "4"),
        (lambda: fused_add_layer_norm(x, residual.half(), weight), "residual", "16"),
        (lambda: fused_add_layer_norm(x, residual, weight[:8]), "weight", "8", "64"),
        (lambda: fused_add_layer_norm(x, residual, weight, bias[:8]), "bias", "8", "64"),
        (lambda: fused_add_layer_norm(x.int(), residual.int()), r"\bx\b", "i32|int"),
        (lambda: fused_add_layer_norm(x, residual, eps=-1.0), "eps", "-1"),
    )
    for call, *texts in refused:
        assert_refused(call, op, *texts)
