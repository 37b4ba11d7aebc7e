"""Total variation distance: reductions, labels, ties, sizes, against float64."""

import pytest
import torch
from accuracy import (
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    dtypes_of,
    run,
    strided_forms,
)
from divergence_reference import distributions, some_labels, tvd_reference
from liger_jit.functional import tvd
from liger_jit.transformers import LigerTVDLoss
from liger_jit.transformers.functional import liger_tvd

REDUCTIONS = ["none", "sum", "mean", "batchmean"]


def case(rows, width, device, dtype=torch.float32):
    p, q = distributions(rows, width, device, dtype, log=False)
    return {"input": p, "target": q}


def check(inputs, **options):
    return assert_as_exact_as_eager(
        lambda **tensors: tvd(**tensors, **options),
        lambda **tensors: tvd_reference(**tensors, **options),
        inputs,
        ["input"],
        # A gradient in half precision that a factor comes to later is rounded twice.
        "ones" if inputs["input"].dtype in HALVES else "random",
    )


@pytest.mark.parametrize("width", [1, 7, 129, 1000, 1023, 1025, 8191, 8192, 8193, 20000])
def test_every_width_is_as_exact_as_eager(device, width):
    check(case(9, width, device), reduction="batchmean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_dtype_is_as_exact_as_eager(device, reduction):
    for dtype in dtypes_of(device):
        inputs = case(17, 193, device, dtype)
        result = check({**inputs, "labels": some_labels(17, device)}, reduction=reduction)
        check(inputs, reduction=reduction)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert result["output 0"].dtype == wide


def test_where_the_two_are_equal_the_gradient_is_zero(device):
    p = torch.tensor([[0.25, 0.5, 0.25]], device=device, requires_grad=True)
    q = torch.tensor([[0.5, 0.5, 0.0]], device=device)
    tvd(p, q, reduction="sum").backward()
    assert torch.equal(p.grad, torch.tensor([[-0.5, 0.0, 0.5]], device=device))


def test_what_is_no_number_shows_as_in_torch(device):
    inf, nan = float("inf"), float("nan")
    p = torch.tensor([[nan, 0.0, inf, inf, -inf]], device=device)
    q = torch.tensor([[0.0, nan, 0.0, inf, inf]], device=device)
    found = run(
        lambda input, target: tvd(input, target, reduction="none"),
        {"input": p, "target": q},
        ["input"],
    )
    wanted = run(
        lambda input, target: tvd_reference(input, target, reduction="none"),
        {"input": p, "target": q},
        ["input"],
    )
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)


def test_rows_that_are_ignored_are_not_read_and_have_no_gradient(device):
    inputs = case(6, 40, device)
    labels = some_labels(6, device)
    p = inputs["input"].clone()
    p[::3] = float("nan")
    p.requires_grad_()
    for reduction in REDUCTIONS:
        p.grad = None
        tvd(p, inputs["target"], labels, reduction).sum().backward()
        assert (p.grad[::3] == 0).all() and p.grad[1].ne(0).all()


@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_without_a_row_that_counts_a_mean_is_no_number_and_the_gradient_zero(device, reduction):
    inputs = case(4, 8, device)
    p = inputs["input"].requires_grad_()
    labels = torch.full((4,), -100, device=device)
    loss = tvd(p, inputs["target"], labels, reduction)
    loss.backward()
    assert loss.isnan() and (p.grad == 0).all()


def test_a_factor_from_above_scales_the_gradient(device):
    inputs = case(4, 33, device)
    p = inputs["input"].requires_grad_()
    (plain,) = torch.autograd.grad(tvd(p, inputs["target"]), p)
    (scaled,) = torch.autograd.grad(8 * tvd(p, inputs["target"]), p)
    assert torch.equal(scaled, 8 * plain)


def test_inputs_may_lie_anywhere(device):
    inputs = case(6, 129, device)
    wanted = run(tvd, inputs, ["input"])
    for name, form in strided_forms(inputs["target"]):
        found = run(tvd, {**inputs, "target": form}, ["input"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_the_module_and_ligers_function_are_the_function(device):
    p, q = case(5, 65, device).values()
    labels = some_labels(5, device)
    assert torch.equal(LigerTVDLoss()(p, q), tvd(p, q, reduction="batchmean"))
    assert torch.equal(LigerTVDLoss("sum", 1)(p, q, labels), tvd(p, q, labels, "sum", 1))
    assert torch.equal(liger_tvd(p, q, labels), tvd(p, q, labels))


def test_refusals(device):
    p = torch.rand(3, 4, device=device)
    assert_refused(lambda: tvd(p, p, reduction="max"), "tvd", "reduction", "'max'", "batchmean")
    assert_refused(lambda: tvd(p, p[:2]), "tvd", "target", r"\(2, 4\)")
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    assert_refused(lambda: tvd(p, p, labels), "tvd", "labels", "one label a row")
    with pytest.raises(NotImplementedError, match="target.*detach"):
        tvd(p, p.clone().requires_grad_())
