"""gpt-oss's gate against float64: limits, both packings, awkward sizes."""

import pytest
import torch
from accuracy import (
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
)
from liger_jit.functional import clamped_swiglu

WRT = ["gate_up"]


def reference(gate_up, alpha=1.702, limit=7.0, interleaved=True):
    if interleaved:
        gate, up = gate_up[..., ::2], gate_up[..., 1::2]
    else:
        gate, up = gate_up.chunk(2, dim=-1)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(gate * alpha))


def packed(shape, dtype, device, scale=4.0):
    value = (scale * torch.randn(*shape[:-1], 2 * shape[-1], device=device)).to(dtype)
    # Releases of torch differ in the gradient of a clamp at its limit.
    return torch.where((value.abs() == 2) | (value.abs() == 7), value + 0.125, value)


# 1 and 7: no vector load fits; 12: halves that begin at no multiple of 16 bytes; 2880: gpt-oss's;
# 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 12, 129, 1000, 2880, 20000])
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, interleaved):
    inputs = {"gate_up": packed((9, size), torch.bfloat16, device), "interleaved": interleaved}
    assert_as_exact_as_eager(clamped_swiglu, reference, inputs, WRT)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}, {"limit": 2.0}, {"limit": None}])
def test_every_dtype_is_as_exact_as_eager(device, options):
    for dtype in dtypes_of(device):
        inputs = {"gate_up": packed((33, 129), dtype, device), **options}
        assert_as_exact_as_eager(clamped_swiglu, reference, inputs, WRT)


def test_what_is_beyond_the_limit_has_no_gradient(device):
    gate_up = torch.tensor([[4.0, 2.0, 2.0, -4.0, -4.0, 4.0]], device=device)
    result = run(clamped_swiglu, {"gate_up": gate_up, "limit": 3.0}, WRT)
    moved = (result["gradient of gate_up"] != 0).tolist()
    assert moved == [[False, True, True, False, True, False]]  # a gate has no limit below


def test_any_number_of_dimensions_and_no_rows_work(device):
    for shape in [(64,), (2, 3, 64), (0, 64), (2, 0, 64)]:
        inputs = {"gate_up": packed(shape, torch.float32, device)}
        result = run(clamped_swiglu, inputs, WRT)
        torch.testing.assert_close(result["output 0"], reference(**inputs))
        assert result["gradient of gate_up"].shape == inputs["gate_up"].shape


def test_inf_nan_and_huge_values_give_what_eager_gives(device):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        largest = torch.finfo(dtype).max
        # Not a gate of minus the largest, whose product with alpha is infinite in eager alone.
        gates = [float("nan"), 0.0, -0.0, 50.0, -50.0, largest, float("inf")]
        gate = torch.tensor(gates, device=device).repeat_interleave(9)
        up = torch.tensor([*gates, -largest, -float("inf")], device=device).repeat(7)
        gate_up = torch.stack((gate, up), -1).flatten().to(dtype)
        assert_same_specials(clamped_swiglu(gate_up), reference(gate_up))


def test_errors_name_the_argument_and_its_value(device):
    x = packed((4, 32), torch.float32, device)
    assert_refused(lambda: clamped_swiglu(x, alpha=0.0), "clamped_swiglu", "alpha", "0", "above 0")
    assert_refused(lambda: clamped_swiglu(x, limit=-7.0), "clamped_swiglu", "limit", "-7")
    assert_refused(lambda: clamped_swiglu(x[:, :5]), "clamped_swiglu", "gate_up", "5", "even")
