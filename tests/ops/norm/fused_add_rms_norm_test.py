"""Residual addition with RMSNorm: the same numbers as the two steps, and their joint gradient."""

from functools import partial

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
from liger_jit.functional import fused_add_rms_norm, rms_norm

WRT = ("x", "residual", "weight")


def reference(x, residual, weight=None, eps=1e-6, offset=0.0, casting_mode="llama"):
    total = x + residual
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = total.to(wide)
    normed = normed * torch.rsqrt(normed.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return normed.to(x.dtype), total
    if casting_mode == "llama":
        return (offset + weight) * normed.to(x.dtype), total
    return (normed * (offset + weight.to(wide))).to(x.dtype), total


def check(inputs, wrt=WRT, **options):
    return assert_as_exact_as_eager(
        partial(fused_add_rms_norm, **options),
        partial(reference, **options),
        inputs,
        wrt,
    )


def tensors(rows, size, dtype, device):
    return {
        "x": torch.randn(rows, size, device=device).to(dtype),
        "residual": (3 * torch.randn(rows, size, device=device)).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
    }


# 7: no vector load fits; 1000: a ragged block; 4096: the usual; 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 1000, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(33, 129, dtype, device))


@pytest.mark.parametrize("casting_mode", ["gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode):
    for dtype in HALVES:
        check(tensors(17, 64, dtype, device), offset=1.0, casting_mode=casting_mode, eps=1e-3)


def test_the_sum_and_the_norm_have_the_bits_of_two_separate_steps(device):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = tensors(16, 64, dtype, device)
        y, total = fused_add_rms_norm(**inputs)
        assert torch.equal(total, inputs["x"] + inputs["residual"])
        assert torch.equal(y, rms_norm(total, inputs["weight"]))


def test_x_and_residual_get_the_same_gradient(device):
    result = run(fused_add_rms_norm, tensors(9, 64, torch.float32, device), WRT)
    assert torch.equal(result["gradient of x"], result["gradient of residual"])


def test_a_gradient_through_only_one_output_is_right(device):
    inputs = tensors(9, 64, torch.float32, device)
    for output in (0, 1):
        assert_as_exact_as_eager(
            lambda output=output, **all_: fused_add_rms_norm(**all_)[output],
            lambda output=output, **all_: reference(**all_)[output],
            inputs,
            ("x", "residual", "weight")[: 3 - output],
        )


def test_gradients_kept_apart_do_not_share_memory(device):
    # Optimisers and hooks write into gradients in place.
    inputs = tensors(4, 64, torch.float32, device)
    x, residual = inputs["x"].requires_grad_(), inputs["residual"].requires_grad_()
    sum(out.sum() for out in fused_add_rms_norm(x, residual, inputs["weight"])).backward()
    kept = residual.grad.clone()
    x.grad.zero_()
    assert torch.equal(residual.grad, kept)


@pytest.mark.parametrize("wrt", [("x",), ("residual",), ("weight",), ("residual", "weight")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(fused_add_rms_norm, inputs, WRT)
    result = run(fused_add_rms_norm, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_views_no_rows_and_more_dimensions_agree_with_the_plain_case(device):
    inputs = tensors(16, 64, torch.bfloat16, device)
    wanted = run(fused_add_rms_norm, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["residual"])[::-1], strict=True)
    for (name, x), (other, residual) in views:
        result = run(fused_add_rms_norm, {**inputs, "x": x, "residual": residual}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    folded = {
        **inputs,
        "x": inputs["x"].view(2, 8, 64),
        "residual": inputs["residual"].view(2, 8, 64),
    }
    result = run(fused_add_rms_norm, folded, WRT)
    assert torch.equal(result["output 0"].view(16, 64), wanted["output 0"])
    assert torch.equal(result["gradient of x"].view(16, 64), wanted["gradient of x"])
    empty = {**inputs, "x": inputs["x"][:0], "residual": inputs["residual"][:0]}
    result = run(fused_add_rms_norm, empty, WRT)
    assert result["output 1"].shape == (0, 64)
    assert torch.equal(result["gradient of weight"], torch.zeros_like(inputs["weight"]))


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(5, 64, torch.bfloat16, device)
    inputs["x"][0, 3] = float("inf")
    inputs["residual"][1, 5] = float("nan")
    inputs["x"][2], inputs["residual"][2] = 1.0, -1.0  # a sum of exactly zero
    inputs["x"][3] = torch.finfo(torch.bfloat16).max
    for mine, theirs in zip(fused_add_rms_norm(**inputs), reference(**inputs), strict=True):
        assert_same_specials(mine, theirs)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(9, 64, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(fused_add_rms_norm, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_errors_name_the_argument_and_its_value(device):
    x, residual, weight = tensors(4, 64, torch.float32, device).values()
    op = "fused_add_rms_norm"
    assert_refused(lambda: fused_add_rms_norm(x, residual[:3], weight), op, "residual", "3", "4")
    assert_refused(lambda: fused_add_rms_norm(x, residual.half(), weight), op, "residual", "16")
    assert_refused(lambda: fused_add_rms_norm(x, residual, weight[:8]), op, "weight", "8", "64")
    assert_refused(
        lambda: fused_add_rms_norm(x.int(), residual.int(), weight), op, r"\bx\b", "i32|int"
    )
    assert_refused(lambda: fused_add_rms_norm(x, residual, casting_mode=3), op, "casting_mode", "3")
