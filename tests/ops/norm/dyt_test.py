"""Dynamic tanh against float64, for every dtype, awkward sizes, views, and tiny and huge values."""

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
from liger_jit.functional import dyt
from liger_jit.transformers import LigerDyT
from liger_jit.transformers.functional import liger_dyt

WRT = ("x", "alpha", "gamma", "beta")


def reference(x, alpha, gamma, beta=None):
    y = gamma * torch.tanh(alpha * x)
    return y if beta is None else y + beta


def check(inputs, wrt=WRT):
    return assert_as_exact_as_eager(dyt, reference, inputs, wrt)


def tensors(rows, size, dtype, device, alpha=0.5):
    return {
        "x": (2 * torch.randn(rows, size, device=device)).to(dtype),
        "alpha": torch.full((1,), alpha, device=device, dtype=dtype),
        "gamma": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
        "beta": (0.3 * torch.randn(size, device=device)).to(dtype),
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


# Where 1 - exp(-2 |x|) has no digits left, where the slope has none, and in between.
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.02, 0.6, 1.2, 8.0, 100.0])
def test_tiny_and_huge_arguments_cost_no_digits(device, scale):
    for dtype in DTYPES:  # in float64 the truth has cancelled, too
        inputs = tensors(17, 1000, dtype, device)
        inputs["x"] = (scale * torch.randn(17, 1000, device=device)).to(dtype)
        inputs["alpha"].fill_(1.0)
        check({**inputs, "beta": torch.zeros_like(inputs["beta"])})


def test_beta_may_be_absent(device):
    inputs = tensors(17, 64, torch.bfloat16, device)
    del inputs["beta"]
    check(inputs, ("x", "alpha", "gamma"))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_alpha_may_have_any_shape_of_one_element(device, shape):
    inputs = tensors(9, 64, torch.float32, device)
    inputs["alpha"] = torch.full(shape, 0.7, device=device)
    assert check(inputs)["gradient of alpha"].shape == shape


@pytest.mark.parametrize("wrt", [*((name,) for name in WRT), ("alpha", "beta"), ("gamma", "beta")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(17, 64, torch.float32, device)
    grad_output = [torch.randn_like(inputs["x"])]
    every = run(dyt, inputs, WRT, grad_output)
    some = run(dyt, inputs, wrt, grad_output)
    assert some.keys() == {"output 0", *(f"gradient of {name}" for name in wrt)}
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], rtol=1e-6, atol=1e-6)


def test_weights_of_another_dtype_give_the_result_of_wide_weights(device):
    for dtype in HALVES:
        inputs = tensors(9, 64, dtype, device)
        wide = {n: v if n == "x" else v.float() for n, v in inputs.items()}
        assert torch.equal(dyt(**wide), dyt(**inputs))
        found = run(dyt, wide, WRT)
        assert found["gradient of alpha"].dtype == found["gradient of gamma"].dtype == torch.float32


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors(6, 64, torch.bfloat16, device)
    grad_output = [torch.randn_like(inputs["x"])]
    plain = run(dyt, inputs, WRT, grad_output)
    for name, view in strided_forms(inputs["x"]):
        seen = run(dyt, {**inputs, "x": view}, WRT, grad_output)
        for key, value in plain.items():
            assert torch.equal(seen[key], value), f"{name}: {key}"


def test_no_rows_give_no_output_and_zero_gradients(device):
    found = run(dyt, tensors(0, 64, torch.float32, device), WRT)
    assert found["output 0"].shape == (0, 64)
    for name in ("alpha", "gamma", "beta"):
        assert not found[f"gradient of {name}"].any()


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(4, 64, torch.float32, device)
    inputs["x"][0, :6] = torch.tensor([float("inf"), -float("inf"), float("nan"), 0, -0.0, 1e-42])
    inputs["x"][1] *= 1e30
    assert_same_specials(dyt(**inputs), reference(**inputs))
    mine, eager = run(dyt, inputs, ("x",)), run(reference, inputs, ("x",))
    assert_same_specials(mine["gradient of x"], eager["gradient of x"])


def test_the_module_starts_and_names_its_parameters_as_ligers(device):
    module = LigerDyT(64, init_alpha=0.25).to(device)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        "alpha": (1,),
        "gamma": (64,),
        "beta": (64,),
    }
    x = torch.randn(5, 64, device=device)
    torch.testing.assert_close(module(x), torch.tanh(0.25 * x))
    assert torch.equal(module(x), liger_dyt(x, module.alpha, module.gamma, module.beta))
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    without = LigerDyT(64, beta=False)
    assert without.beta is None
    assert list(without.state_dict()) == ["alpha", "gamma"]


def test_errors_name_the_argument_and_its_value(device):
    x = torch.randn(4, 64, device=device)
    one, ones = torch.ones(1, device=device), torch.ones(64, device=device)
    assert_refused(lambda: dyt(x, ones, ones), "dyt", "alpha", "64", "one element")
    assert_refused(lambda: dyt(x, one, ones[1:]), "dyt", "gamma", "63", "64")
    assert_refused(lambda: dyt(x, one, ones, ones[2:]), "dyt", "beta", "62", "64")
    assert_refused(lambda: dyt(x.int(), one, ones), "dyt", "x", "i32")
