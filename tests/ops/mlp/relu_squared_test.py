"""The squared ReLU against float64, for every dtype, awkward sizes, views and special values."""

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
from liger_jit.functional import relu_squared
from liger_jit.transformers import LigerReLUSquared
from liger_jit.transformers.functional import liger_relu_squared
from torch.nn import functional as F


def reference(x):
    return F.relu(x).square()


# 1, 7, 1025: no vector load fits; 1023: a ragged last one; 14336: the usual.
@pytest.mark.parametrize("size", [1, 7, 48, 1023, 1025, 14336])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    x = torch.randn(5, size, device=device).bfloat16()
    assert_as_exact_as_eager(relu_squared, reference, {"x": x}, ("x",))


@pytest.mark.parametrize("shape", [(9,), (3, 1000), (2, 3, 5, 64)])
def test_every_dtype_is_as_exact_as_eager(device, shape):
    for dtype in dtypes_of(device):
        x = torch.randn(shape, device=device).to(dtype)
        assert_as_exact_as_eager(relu_squared, reference, {"x": x}, ("x",))


def test_special_values_give_what_eager_gives(device):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[0.0, -0.0, inf, -inf, nan, 1e30, -1e30, 1e-30, 3.0]], device=device)
    for dy in (1.0, -2.0, inf, nan):
        grad_output = [torch.full_like(x, dy)]
        mine = run(relu_squared, {"x": x}, ("x",), grad_output)
        eager = run(reference, {"x": x}, ("x",), grad_output)
        for name, value in eager.items():
            assert_same_specials(mine[name], value)


def test_views_give_the_result_of_their_copies(device):
    x = torch.randn(6, 64, device=device).bfloat16()
    grad_output = [torch.randn_like(x)]
    plain = run(relu_squared, {"x": x}, ("x",), grad_output)
    for name, view in strided_forms(x):
        seen = run(relu_squared, {"x": view}, ("x",), grad_output)
        for key, value in plain.items():
            assert torch.equal(seen[key], value), f"{name}: {key}"


def test_no_elements_give_none(device):
    found = run(relu_squared, {"x": torch.empty(0, 64, device=device)}, ("x",))
    assert found["output 0"].shape == found["gradient of x"].shape == (0, 64)


def test_the_module_and_ligers_function_are_the_function(device):
    x = torch.randn(4, 64, device=device).bfloat16()
    assert torch.equal(LigerReLUSquared()(x), relu_squared(x))
    assert torch.equal(liger_relu_squared(x), relu_squared(x))
    assert not list(LigerReLUSquared().parameters())


def test_the_input_is_left_as_it_was(device):
    x = torch.randn(4, 64, device=device)
    before = x.clone()
    run(relu_squared, {"x": x}, ("x",))
    assert torch.equal(x, before)


def test_errors_name_the_argument_and_its_value(device):
    assert_refused(lambda: relu_squared(torch.ones(4, 8).int()), "relu_squared", "x", "i32")
    assert_refused(lambda: relu_squared(torch.tensor(1.0)), "relu_squared", "x", "no dimension")
