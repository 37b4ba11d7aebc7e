"""silu(gate) * up against float64, for every dtype and awkward size or view."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import (
    DTYPES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import swiglu

WRT = ("gate", "up")


def reference(gate, up):
    return torch_functional.silu(gate) * up


def scaled_reference(gate, up, gate_multiplier=1.0, down_multiplier=1.0, limit=None):
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return torch_functional.silu(gate * gate_multiplier) * up * down_multiplier


def tensors(shape, dtype, device, scale=2.0):
    gate, up = scale * torch.randn(2, *shape, device=device)
    return {"gate": gate.to(dtype), "up": up.to(dtype)}


# 1 and 7: no vector load fits; 129: one over a power of two; 1000: ragged; 11008: Llama's;
# 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 129, 1000, 11008, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    inputs = tensors((9, size), torch.bfloat16, device)
    assert_as_exact_as_eager(swiglu, reference, inputs, WRT)


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        inputs = tensors((33, 129), dtype, device)
        assert_as_exact_as_eager(swiglu, reference, inputs, WRT)


@pytest.mark.parametrize(
    "options",
    [
        {"gate_multiplier": 0.88, "down_multiplier": 0.3},
        {"gate_multiplier": -2.0},
        {"limit": 1.7},
        {"gate_multiplier": 0.5, "down_multiplier": 2.5, "limit": 1.7},
    ],
)
def test_multipliers_and_a_limit_are_as_exact_as_eager(device, options):
    for dtype in dtypes_of(device):
        inputs = tensors((33, 129), dtype, device) | options
        assert_as_exact_as_eager(swiglu, scaled_reference, inputs, WRT)


def test_the_forward_has_nearly_always_the_bits_of_eager(device):
    inputs = tensors((64, 64), torch.bfloat16, device)
    assert (swiglu(**inputs) != reference(**inputs)).float().mean() < 0.01


def test_the_halves_of_a_packed_projection_are_read_in_place(device):
    packed = torch.randn(3, 5, 128, device=device).bfloat16().requires_grad_()
    gate, up = packed.chunk(2, dim=-1)
    y = swiglu(gate, up)
    whole = {"gate": gate.detach().contiguous(), "up": up.detach().contiguous()}
    wanted = run(swiglu, whole, WRT)
    assert torch.equal(y, wanted["output 0"])
    y.sum().backward()
    both = torch.cat([wanted["gradient of gate"], wanted["gradient of up"]], -1)
    assert torch.equal(packed.grad, both)


def test_views_of_different_strides_give_the_result_of_their_copies(device):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = tensors((16, 64), dtype, device)
        wanted = run(swiglu, inputs, WRT)
        views = zip(strided_forms(inputs["gate"]), strided_forms(inputs["up"])[::-1], strict=True)
        for (name, gate), (other, up) in views:
            result = run(swiglu, {"gate": gate, "up": up}, WRT)
            for key, value in wanted.items():
                assert torch.equal(result[key], value), f"{key} of {name} and {other}"


def test_any_number_of_dimensions_and_no_rows_work(device):
    for shape in [(64,), (2, 3, 64), (2, 3, 4, 64), (0, 64), (2, 0, 64)]:
        inputs = tensors(shape, torch.float32, device)
        result = run(swiglu, inputs, WRT)
        torch.testing.assert_close(result["output 0"], reference(**inputs))
        assert result["gradient of gate"].shape == shape


@pytest.mark.parametrize("wrt", [("gate",), ("up",)])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors((9, 64), torch.float32, device)
    name = f"gradient of {wrt[0]}"
    assert torch.equal(run(swiglu, inputs, wrt)[name], run(swiglu, inputs, WRT)[name])


def test_one_tensor_as_both_inputs_gets_the_sum_of_the_gradients(device):
    x = torch.randn(4, 64, device=device, requires_grad=True)
    swiglu(x, x).sum().backward()
    parts = run(swiglu, {"gate": x.detach(), "up": x.detach()}, WRT)
    torch.testing.assert_close(x.grad, parts["gradient of gate"] + parts["gradient of up"])


def test_inf_nan_denormals_and_huge_values_give_what_eager_gives(device):
    for dtype in DTYPES:
        largest, least = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
        specials = [float("nan"), 0.0, -0.0, 50.0, -50.0, largest, -largest, least / 4]
        # Not a gate of minus infinity, which eager makes NaN; its limit is zero.
        gates = torch.tensor([*specials, float("inf")], device=device).to(dtype)
        ups = torch.tensor([*specials, float("inf"), -float("inf")], device=device).to(dtype)
        gate, up = gates.repeat_interleave(10), ups.repeat(9)
        assert_same_specials(swiglu(gate, up), reference(gate, up))


def test_errors_name_the_argument_and_its_value(device):
    gate, up = tensors((4, 64), torch.float32, device).values()
    assert_refused(lambda: swiglu(gate, up[:3]), "swiglu", "up", "3", "4")
    assert_refused(lambda: swiglu(gate, up[:, :63]), "swiglu", "up", "63", "64")
    assert_refused(lambda: swiglu(gate, up.half()), "swiglu", "up", "16")
    assert_refused(lambda: swiglu(gate.long(), up.long()), "swiglu", "gate", "i64|(?i:int64|long)")
    assert_refused(lambda: swiglu(gate, up, limit=-1.0), "swiglu", "limit", "-1")
    assert_refused(lambda: swiglu(gate, None), "swiglu", "up", "Tensor", "None")


def test_tensors_of_two_devices_are_refused(cuda):
    x = torch.randn(4, 64)
    assert_refused(lambda: swiglu(x.to(cuda), x), "swiglu", "up", "cpu", "cuda")
