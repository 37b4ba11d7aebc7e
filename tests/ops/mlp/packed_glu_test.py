"""Gate and up in one tensor, halves or interleaved, against float64: activations, limits, views."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import (
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import geglu, packed_glu, swiglu

ACTIVATIONS = {
    "silu": torch_functional.silu,
    "gelu_tanh": lambda x: torch_functional.gelu(x, approximate="tanh"),
    "gelu": torch_functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
OPTIONS = {"gate_multiplier": 0.75, "down_multiplier": 1.5, "limit": 3.0}


def apart(gate_up, interleaved):
    return (gate_up[..., ::2], gate_up[..., 1::2]) if interleaved else gate_up.chunk(2, dim=-1)


def reference(
    gate_up,
    activation="silu",
    interleaved=False,
    gate_multiplier=1.0,
    down_multiplier=1.0,
    limit=None,
):
    gate, up = apart(gate_up, interleaved)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return ACTIVATIONS[activation](gate * gate_multiplier) * up * down_multiplier


def packed(shape, dtype, device, scale=2.0):
    value = (scale * torch.randn(*shape[:-1], 2 * shape[-1], device=device)).to(dtype)
    # Releases of torch differ in the gradient of a clamp at its limit.
    return torch.where(value.abs() == 3, value + 0.125, value)


# 1 and 7: no vector load fits; 12: halves that begin at no multiple of 16 bytes; 129: one over a
# power of two; 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 12, 129, 1000, 2880, 20000])
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, interleaved):
    inputs = {"gate_up": packed((9, size), torch.bfloat16, device), "interleaved": interleaved}
    assert_as_exact_as_eager(packed_glu, reference, inputs, ["gate_up"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_every_dtype_is_as_exact_as_eager(device, activation, interleaved, options):
    for dtype in dtypes_of(device):
        inputs = {"gate_up": packed((33, 129), dtype, device), "activation": activation}
        inputs |= {"interleaved": interleaved, **options}
        assert_as_exact_as_eager(packed_glu, reference, inputs, ["gate_up"])


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_bits_are_those_of_gate_and_up_apart(device, interleaved):
    for dtype in dtypes_of(device):
        gate_up = packed((5, 72), dtype, device)
        gate, up = (part.contiguous() for part in apart(gate_up, interleaved))
        for activation, same in (("silu", swiglu), ("gelu_tanh", geglu)):
            inputs = {"gate_up": gate_up, "activation": activation, "interleaved": interleaved}
            mine = run(packed_glu, inputs, ["gate_up"])
            wanted = run(same, {"gate": gate, "up": up}, ["gate", "up"])
            assert torch.equal(mine["output 0"], wanted["output 0"])
            parts = apart(mine["gradient of gate_up"], interleaved)
            for part, name in zip(parts, ("gate", "up"), strict=True):
                assert torch.equal(part, wanted[f"gradient of {name}"])


@pytest.mark.parametrize("interleaved", [False, True])
def test_views_give_the_result_of_their_copies(device, interleaved):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = {"gate_up": packed((16, 64), dtype, device), "interleaved": interleaved}
        wanted = run(packed_glu, inputs, ["gate_up"])
        for name, view in strided_forms(inputs["gate_up"]):
            result = run(packed_glu, inputs | {"gate_up": view}, ["gate_up"])
            for key, value in wanted.items():
                assert torch.equal(result[key], value), f"{key} of {name}"


def test_a_wide_grad_output_over_narrow_halves_is_read_in_place(device):
    """The halves begin at multiples of less than the rows of every tensor do."""
    gate_up = packed((16, 12), torch.bfloat16, device).requires_grad_()
    wide = torch.randn(16, 16, device=device).bfloat16()
    y = packed_glu(gate_up)
    (mine,) = torch.autograd.grad(y, gate_up, wide[:, :12], retain_graph=True)
    (wanted,) = torch.autograd.grad(y, gate_up, wide[:, :12].contiguous())
    assert torch.equal(mine, wanted)


def test_any_number_of_dimensions_and_no_rows_work(device):
    for shape in [(64,), (2, 3, 64), (0, 64), (2, 0, 64)]:
        inputs = {"gate_up": packed(shape, torch.float32, device)}
        result = run(packed_glu, inputs, ["gate_up"])
        torch.testing.assert_close(result["output 0"], reference(**inputs))
        assert result["gradient of gate_up"].shape == inputs["gate_up"].shape


def test_inf_nan_and_huge_values_give_what_eager_gives(device):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        largest = torch.finfo(dtype).max
        specials = [float("nan"), 0.0, -0.0, 50.0, -50.0, largest, -largest, float("inf")]
        values = torch.tensor(specials, device=device).to(dtype)
        gate, up = values.repeat_interleave(8), values.repeat(8)
        gate_up = torch.stack((gate, up), -1).flatten()
        assert_same_specials(
            packed_glu(gate_up, interleaved=True), reference(gate_up, interleaved=True)
        )


def test_errors_name_the_argument_and_its_value(device):
    x = packed((4, 32), torch.float32, device)
    assert_refused(lambda: packed_glu(x[:, :63]), "packed_glu", "gate_up", "63", "even")
    assert_refused(lambda: packed_glu(x, "relu"), "packed_glu", "activation", "relu", "quick_gelu")
    assert_refused(lambda: packed_glu(x, limit=-1.0), "packed_glu", "limit", "-1")
    assert_refused(lambda: packed_glu(x[0, 0]), "packed_glu", "gate_up")
    assert_refused(lambda: packed_glu(x.long()), "packed_glu", "gate_up", "i64|(?i:int64|long)")
