"""Softmax against float64: dtypes, lengths, extreme values, layouts, the module."""

import pytest
import torch
from accuracy import (
    DTYPES,
    TOLERANCE,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import softmax
from liger_jit.transformers import LigerSoftmax
from liger_jit.transformers.functional import liger_softmax


def reference(x):
    return torch.softmax(x, -1)


def check(x):
    # The few largest of a row have most of the gradient's norm, and luck says how y is rounded.
    return assert_as_exact_as_eager(
        softmax, reference, {"x": x}, ["x"], slack_of_products=TOLERANCE[x.dtype].scalar_slack
    )


# 1: all of the row; 7, 129, 1023, 1025: no vector load fits; 2048: the first that is held on the
# chip; 32768, 50257: held by clusters; 600001: longer than they hold.
@pytest.mark.parametrize("width", [1, 7, 8, 64, 129, 1000, 1023, 1025, 2048, 4100, 32768, 50257])
def test_every_width_is_as_exact_as_eager(device, width):
    for dtype in (torch.float32, torch.bfloat16):
        check((3 * torch.randn(5 if width > 2000 else 50, width, device=device)).to(dtype))


def test_a_row_that_no_cluster_holds(device):
    check(torch.randn(2, 600001, device=device, dtype=torch.bfloat16))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        result = check((4 * torch.randn(2, 17, 193, device=device)).to(dtype))
        assert result["output 0"].dtype == dtype


def test_rows_sum_to_one_and_an_offset_changes_nothing(device):
    x = torch.randn(9, 777, device=device)
    y = softmax(x)
    torch.testing.assert_close(y.sum(-1), torch.ones(9, device=device))
    assert torch.equal(softmax(x.round() + 4096), softmax(x.round()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_are_those_of_torch(device, dtype):
    inf, nan = float("inf"), float("nan")
    rows = [
        [0.0, 6e4, -6e4, 6e4],
        [-inf, 1.0, 2.0, -inf],
        [-inf, -inf, -inf, -inf],
        [inf, 1.0, 2.0, 3.0],
        [inf, -inf, inf, 0.0],
        [nan, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, nan],
    ]
    for width in (4, 4096):
        x = torch.full((len(rows), width), -inf, device=device, dtype=dtype)
        x[:, :4] = torch.tensor(rows, device=device, dtype=dtype)
        assert_same_specials(softmax(x), reference(x))


def test_gradients_are_zero_where_the_probability_is(device):
    x = torch.tensor([[1.0, float("-inf"), 2.0]], device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(softmax(x)[0, 0], x)
    assert gradient[0, 1] == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("width", [129, 4096])
def test_inputs_and_gradients_may_lie_anywhere(device, width):
    x = torch.randn(6, width, device=device)
    wanted = run(softmax, {"x": x}, ["x"])
    for name, form in strided_forms(x):
        found = run(softmax, {"x": form}, ["x"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_inputs_are_left_as_they_were_and_nothing_gives_nothing(device):
    x = torch.randn(4, 33, device=device)
    kept = x.clone()
    softmax(x.requires_grad_()).sum().backward()
    assert torch.equal(x, kept)
    assert softmax(x[:0]).shape == (0, 33)
    assert softmax(x[0]).shape == (33,)


def test_the_module_and_ligers_function_are_the_function(device):
    x = torch.randn(3, 65, device=device, dtype=torch.bfloat16)
    assert torch.equal(LigerSoftmax()(x), softmax(x))
    assert torch.equal(liger_softmax(x), softmax(x))


def test_refusals(device):
    assert_refused(lambda: softmax(torch.ones(3, dtype=torch.int64, device=device)), "softmax", "x")
