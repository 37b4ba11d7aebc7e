"""RMSNorm against float64, for every rounding mode, dtype and awkward size or view."""

from functools import partial

import pytest
import torch
from accuracy import (
    DTYPES,
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import rms_norm


def reference(x, weight=None, eps=1e-6, offset=0.0, casting_mode="llama"):
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = x.to(wide)
    normed = normed * torch.rsqrt(normed.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return normed.to(x.dtype)
    if casting_mode == "llama":
        return (offset + weight) * normed.to(x.dtype)
    return (normed * (offset + weight.to(wide))).to(x.dtype)


def check(inputs, wrt=("x", "weight"), **options):
    return assert_as_exact_as_eager(
        partial(rms_norm, **options),
        partial(reference, **options),
        inputs,
        wrt,
    )


def tensors(rows, size, dtype, device, weight_dtype=None):
    return {
        "x": torch.randn(rows, size, device=device).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(weight_dtype or dtype),
    }


# 1: no sum; 7, 129: no vector load fits; 8: one vector; 64: one warp; 1000: a ragged block;
# 4096: the usual; 20000: longer than any block holds in registers at once.
@pytest.mark.parametrize("size", [1, 7, 8, 64, 129, 1000, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


@pytest.mark.parametrize("size", [129, 4096])
def test_every_dtype_is_as_exact_as_eager(device, size):
    for dtype in dtypes_of(device):
        check(tensors(33, size, dtype, device))


@pytest.mark.parametrize("casting_mode", ["llama", "gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode):
    for dtype in HALVES:
        check(tensors(17, 64, dtype, device), offset=1.0, casting_mode=casting_mode, eps=1e-3)


def test_llama_mode_gives_the_bits_of_the_eager_module(device):
    inputs = tensors(64, 64, torch.bfloat16, device)
    difference = rms_norm(**inputs) != reference(**inputs)
    # rsqrt may differ in its last float32 bit, which moves a rounding to bfloat16 now and then.
    assert difference.float().mean() < 0.01


def test_one_row_many_rows_and_more_dimensions_agree(device):
    inputs = tensors(24, 64, torch.float32, device)
    whole = rms_norm(**inputs)
    assert torch.equal(rms_norm(inputs["x"][5:6], inputs["weight"])[0], whole[5])
    assert torch.equal(rms_norm(inputs["x"][5], inputs["weight"]), whole[5])
    for shape in [(2, 12, 64), (2, 3, 4, 64)]:
        assert torch.equal(rms_norm(inputs["x"].view(shape), inputs["weight"]), whole.view(shape))


def test_no_rows_give_no_rows_and_a_weight_gradient_of_zero(device):
    for shape in [(0, 64), (3, 0, 64)]:
        inputs = {"x": torch.randn(shape, device=device), "weight": torch.ones(64, device=device)}
        result = run(rms_norm, inputs, ("x", "weight"))
        assert result["output 0"].shape == shape
        assert result["gradient of x"].shape == shape
        assert torch.equal(result["gradient of weight"], torch.zeros(64, device=device))


def test_views_give_the_result_of_their_contiguous_copy(device):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = tensors(16, 64, dtype, device)
        wanted = run(rms_norm, inputs, ("x", "weight"))
        for name, view in strided_forms(inputs["x"]):
            result = run(rms_norm, {**inputs, "x": view}, ("x", "weight"))
            for key, value in wanted.items():
                assert torch.equal(result[key], value), f"{key} of {name}"


def test_a_misaligned_weight_gives_the_same_result(device):
    inputs = tensors(16, 64, torch.bfloat16, device)
    padded = torch.cat([inputs["weight"][:1], inputs["weight"]])
    assert torch.equal(rms_norm(inputs["x"], padded[1:]), rms_norm(**inputs))


def test_an_grad_output_gradient_with_any_strides_is_read_right(device):
    inputs = tensors(16, 64, torch.float32, device)
    gradient = torch.randn(16, 64, device=device)
    wanted = run(rms_norm, inputs, ("x", "weight"), [gradient])
    for name, view in strided_forms(gradient):
        result = run(rms_norm, inputs, ("x", "weight"), [view])
        assert torch.equal(result["gradient of x"], wanted["gradient of x"]), name
        assert torch.equal(result["gradient of weight"], wanted["gradient of weight"]), name
    ones = run(rms_norm, inputs, ("x",), [torch.ones(16, 64, device=device)])
    spread = run(rms_norm, inputs, ("x",), [torch.ones((), device=device).expand(16, 64)])
    assert torch.equal(ones["gradient of x"], spread["gradient of x"])


def test_the_weight_may_be_absent_or_of_another_dtype(device):
    check({"x": torch.randn(9, 64, device=device).bfloat16()}, ("x",))
    inputs = tensors(9, 64, torch.bfloat16, device, torch.float32)
    check(inputs, casting_mode="gemma")
    result = run(rms_norm, inputs, ("x", "weight"))
    assert result["output 0"].dtype == torch.bfloat16
    assert result["gradient of weight"].dtype == torch.float32


def test_promote_gives_the_dtype_that_eager_gives(device):
    inputs = tensors(9, 64, torch.bfloat16, device, torch.float32)
    result = run(partial(rms_norm, promote=True), inputs, ("x", "weight"))
    assert result["output 0"].dtype == torch.float32
    torch.testing.assert_close(result["output 0"], reference(**inputs), rtol=1e-2, atol=1e-6)
    same = tensors(9, 64, torch.float16, device)
    assert rms_norm(**same, promote=True).dtype == torch.float16


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("x", "weight")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(rms_norm, inputs, ("x", "weight"))
    result = run(rms_norm, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_nothing_is_recorded_where_nothing_requires_a_gradient(device):
    inputs = tensors(9, 64, torch.float32, device)
    assert not rms_norm(**inputs).requires_grad
    inputs["x"].requires_grad_()
    with torch.no_grad():
        assert not rms_norm(**inputs).requires_grad


@pytest.mark.parametrize("casting_mode", ["llama", "gemma"])
def test_inf_nan_denormals_and_zeros_give_what_eager_gives(device, casting_mode):
    for dtype in DTYPES:
        x = torch.randn(6, 64, device=device).to(dtype)
        x[0, 3] = float("inf")
        x[1, 5] = float("-inf")
        x[2, 7] = float("nan")
        x[3] = 0.0
        x[4] = torch.finfo(dtype).smallest_normal / 8
        weight = torch.ones(64, device=device, dtype=dtype)
        result = rms_norm(x, weight, casting_mode=casting_mode)
        assert_same_specials(result, reference(x, weight, casting_mode=casting_mode))


def test_values_whose_squares_overflow_float16_are_normalised(device):
    x = (1e4 * torch.randn(9, 129, device=device)).clamp(-6e4, 6e4).half()
    check({"x": x, "weight": torch.ones(129, device=device).half()})


def test_rows_of_very_different_size_do_not_disturb_each_other(device):
    scale = torch.logspace(-6, 6, 13, device=device).unsqueeze(1)
    x = torch.randn(13, 64, device=device)
    result = rms_norm(x * scale, None, 1e-30)
    torch.testing.assert_close(result, rms_norm(x, None, 1e-30), rtol=1e-5, atol=1e-6)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(9, 64, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(rms_norm, inputs, ("x", "weight"))
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_errors_name_the_argument_and_its_value(device):
    x = torch.randn(4, 64, device=device)
    weight = torch.ones(64, device=device)
    assert_refused(lambda: rms_norm(x.long(), weight), "rms_norm", r"\bx\b", "i64|(?i:int64|long)")
    assert_refused(lambda: rms_norm(x, weight.int()), "rms_norm", "weight", "i32|(?i:int)")
    assert_refused(lambda: rms_norm(x, weight[:63]), "rms_norm", "weight", "63", "64")
    assert_refused(lambda: rms_norm(x, weight.view(8, 8)), "rms_norm", "weight", "8")
    assert_refused(
        lambda: rms_norm(x, weight, casting_mode="bert"), "casting_mode", "bert", "gemma"
    )
    assert_refused(lambda: rms_norm([1.0, 2.0], weight), "rms_norm", r"'x'|\bx\b", "Tensor", "list")
    assert_refused(lambda: rms_norm(x[0, 0], None), "rms_norm", r"\bx\b")


def test_tensors_of_two_devices_are_refused(cuda):
    x = torch.randn(4, 64, device=cuda)
    assert_refused(lambda: rms_norm(x, torch.ones(64)), "rms_norm", "weight", "cpu", "cuda")
