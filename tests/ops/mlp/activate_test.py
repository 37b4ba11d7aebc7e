"""act(x + bias) against float64: every activation, dtype, awkward size and view."""

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
from liger_jit.functional import activate

ACTIVATIONS = {
    "silu": torch_functional.silu,
    "gelu_tanh": lambda x: torch_functional.gelu(x, approximate="tanh"),
    "gelu": torch_functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def reference(x, activation="gelu_tanh", bias=None):
    return ACTIVATIONS[activation](x if bias is None else x + bias)


def tensors(shape, dtype, device, name="gelu_tanh", biased=True):
    x = (2 * torch.randn(shape, device=device)).to(dtype)
    bias = torch.randn(shape[-1], device=device).to(dtype) if biased else None
    return {"x": x, "activation": name, "bias": bias}


# 1 and 7: no vector load fits; 129: one over a power of two; 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 129, 1000, 1025, 14336, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    for biased, wrt in ((True, ["x", "bias"]), (False, ["x"])):
        inputs = tensors((37, size), torch.bfloat16, device, biased=biased)
        assert_as_exact_as_eager(activate, reference, inputs, wrt)


@every_activation
def test_every_dtype_is_as_exact_as_eager(device, name):
    for dtype in dtypes_of(device):
        for biased, wrt in ((True, ["x", "bias"]), (False, ["x"])):
            inputs = tensors((33, 129), dtype, device, name, biased)
            assert_as_exact_as_eager(activate, reference, inputs, wrt)


@every_activation
def test_the_tails_are_as_exact_as_eager(device, name):
    for dtype in DTYPES:
        for x in (torch.linspace(-12, -3, 515), torch.linspace(3, 12, 515)):
            inputs = {"x": x.to(device, dtype)[None], "activation": name}
            assert_as_exact_as_eager(activate, reference, inputs, ["x"], "ones")


def test_a_bias_of_another_dtype_gets_a_gradient_of_its_own(device):
    inputs = tensors((300, 48), torch.bfloat16, device)
    inputs["bias"] = inputs["bias"].float()
    mine = run(activate, inputs, ["x", "bias"])
    wide = inputs | {"x": inputs["x"].float()}
    wanted = run(reference, wide, ["x", "bias"])
    assert mine["output 0"].dtype == torch.bfloat16
    assert mine["gradient of bias"].dtype == torch.float32
    torch.testing.assert_close(mine["gradient of bias"], wanted["gradient of bias"])


@pytest.mark.parametrize("wrt", [("x",), ("bias",)])
def test_only_what_requires_a_gradient_gets_one_and_its_bits_stay(device, wrt):
    inputs = tensors((67, 72), torch.float32, device)
    name = f"gradient of {wrt[0]}"
    every = run(activate, inputs, ["x", "bias"])
    assert torch.equal(run(activate, inputs, wrt)[name], every[name])


def test_views_give_the_result_of_their_copies(device):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = tensors((16, 64), dtype, device)
        wanted = run(activate, inputs, ["x", "bias"])
        for name, view in strided_forms(inputs["x"]):
            result = run(activate, inputs | {"x": view}, ["x", "bias"])
            for key, value in wanted.items():
                assert torch.equal(result[key], value), f"{key} of {name}"


def test_any_number_of_dimensions_and_no_rows_work(device):
    for shape in [(64,), (2, 3, 64), (0, 64), (2, 0, 64)]:
        inputs = tensors(shape, torch.float32, device)
        result = run(activate, inputs, ["x", "bias"])
        wanted = run(reference, inputs, ["x", "bias"])
        for key, value in wanted.items():
            torch.testing.assert_close(result[key], value)


@every_activation
def test_inf_nan_denormals_and_huge_values_give_what_eager_gives(device, name):
    for dtype in DTYPES:
        largest, least = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
        specials = [float("nan"), 0.0, -0.0, 50.0, -50.0, -largest, least / 4]
        # Not minus infinity, which eager makes NaN; its limit is zero.
        x = torch.tensor(specials, device=device).to(dtype)
        assert_same_specials(activate(x, name), reference(x, name))
        # Eager's exact GELU overflows there.
        above = torch.tensor([largest, float("inf")], device=device).to(dtype)
        assert torch.equal(activate(above, name), above)


def test_errors_name_the_argument_and_its_value(device):
    x = torch.randn(4, 64, device=device)
    assert_refused(lambda: activate(x, "relu"), "activate", "activation", "relu", "quick_gelu")
    assert_refused(lambda: activate(x, bias=x[0, :63]), "activate", "bias", "63", "64")
    assert_refused(lambda: activate(x, bias=x), "activate", "bias", r"\[4, 64\]")
    assert_refused(lambda: activate(x.long()), "activate", "x", "i64|(?i:int64|long)")
