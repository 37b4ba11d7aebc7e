"""gelu(gate) * up, in all forms of GELU, against float64."""

from functools import partial

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
from liger_jit.functional import geglu

WRT = ("gate", "up")


def gelu(x, approximate):
    if approximate == "sigmoid":
        return x * torch.sigmoid(1.702 * x)
    return torch_functional.gelu(x, approximate=approximate)


def reference(gate, up, approximate="tanh", gate_multiplier=1.0, down_multiplier=1.0):
    return gelu(gate * gate_multiplier, approximate) * up * down_multiplier


def check(inputs, approximate):
    assert_as_exact_as_eager(
        partial(geglu, approximate=approximate),
        partial(reference, approximate=approximate),
        inputs,
        WRT,
    )


def tensors(shape, dtype, device, scale=2.0):
    gate, up = scale * torch.randn(2, *shape, device=device)
    return {"gate": gate.to(dtype), "up": up.to(dtype)}


# 7: no vector load fits; 1000: ragged; 16384: Gemma's; 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 1000, 16384, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors((9, size), torch.bfloat16, device), "tanh")


@pytest.mark.parametrize("approximate", ["tanh", "none", "sigmoid"])
def test_every_dtype_is_as_exact_as_eager(device, approximate):
    for dtype in dtypes_of(device):
        check(tensors((33, 129), dtype, device), approximate)
        scaled = {"gate_multiplier": 0.88, "down_multiplier": 0.3}
        check(tensors((33, 129), dtype, device) | scaled, approximate)


def test_the_two_forms_differ(device):
    gate, up = tensors((8, 64), torch.float32, device).values()
    apart = (geglu(gate, up, "tanh") - geglu(gate, up, "none")).abs().max()
    assert 1e-5 < apart < 1e-2


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors((16, 64), torch.bfloat16, device)
    wanted = run(geglu, inputs, WRT)
    views = zip(strided_forms(inputs["gate"]), strided_forms(inputs["up"])[::-1], strict=True)
    for (name, gate), (other, up) in views:
        result = run(geglu, {"gate": gate, "up": up}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"


def test_any_number_of_dimensions_and_no_rows_work(device):
    for shape in [(64,), (2, 3, 64), (0, 64)]:
        inputs = tensors(shape, torch.float32, device)
        result = run(geglu, inputs, WRT)
        torch.testing.assert_close(result["output 0"], reference(**inputs))
        assert result["gradient of up"].shape == shape


@pytest.mark.parametrize("wrt", [("gate",), ("up",)])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors((9, 64), torch.float32, device)
    name = f"gradient of {wrt[0]}"
    assert torch.equal(run(geglu, inputs, wrt)[name], run(geglu, inputs, WRT)[name])


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_inf_nan_and_large_values_give_what_eager_gives(device, approximate):
    for dtype in DTYPES:
        # Up to 2e4: the cube inside tanh overflows float16 there, float32 nowhere.
        gate = torch.tensor([float("nan"), 0.0, 10.0, -10.0, 2e4, -2e4], device=device).to(dtype)
        up = torch.ones_like(gate)
        assert_same_specials(geglu(gate, up, approximate), reference(gate, up, approximate))
        # Eager's exact form makes this NaN on some CPUs.
        infinite = torch.full((3,), float("inf"), device=device, dtype=dtype)
        assert torch.equal(geglu(infinite, torch.ones_like(infinite), approximate), infinite)


def test_gradients_far_from_zero_are_finite(device):
    gate = torch.tensor([-3e4, -100.0, -20.0, 20.0, 100.0, 3e4], device=device)
    result = run(geglu, {"gate": gate, "up": torch.ones_like(gate)}, WRT)
    wanted = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], device=device)
    torch.testing.assert_close(result["gradient of gate"], wanted)


def test_errors_name_the_argument_and_its_value(device):
    gate, up = tensors((4, 64), torch.float32, device).values()
    assert_refused(lambda: geglu(gate, up[:3]), "geglu", "up", "3", "4")
    assert_refused(lambda: geglu(gate, up.half()), "geglu", "up", "16")
    assert_refused(lambda: geglu(gate.int(), up.int()), "geglu", "gate", "i32|int")
    assert_refused(lambda: geglu(gate, up, "erf"), "geglu", "approximate", "erf", "tanh", "none")
