"""Jensen-Shannon divergence: beta from limit to limit, labels, sizes, against float64."""

import math

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
from divergence_reference import distributions, jsd_reference, some_labels
from liger_jit.functional import jsd, kl_div
from liger_jit.transformers import LigerJSD
from liger_jit.transformers.functional import liger_jsd


def case(rows, width, device, dtype=torch.float32):
    x, y = distributions(rows, width, device, dtype, log=True)
    return {"input": x, "target": y}


def check(inputs, **options):
    return assert_as_exact_as_eager(
        lambda **tensors: jsd(**tensors, **options),
        lambda **tensors: jsd_reference(**tensors, **options),
        inputs,
        ["input"],
        # A gradient in half precision that a factor comes to later is rounded twice.
        "ones" if inputs["input"].dtype in HALVES else "random",
    )


@pytest.mark.parametrize("width", [1, 7, 129, 1000, 1023, 1025, 8191, 8192, 8193, 20000])
def test_every_width_is_as_exact_as_eager(device, width):
    inputs = case(9, width, device)
    check(inputs, reduction="none") if width == 1 else check(inputs)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
def test_every_beta_in_every_dtype_is_as_exact_as_eager(device, beta, reduction):
    for dtype in dtypes_of(device):
        inputs = case(17, 193, device, dtype)
        result = check(
            {**inputs, "labels": some_labels(17, device)}, beta=beta, reduction=reduction
        )
        check(inputs, beta=beta, reduction=reduction)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert result["output 0"].dtype == wide


def test_distributions_that_are_nearly_one_are_told_apart(device):
    inputs = case(4, 300, device)
    inputs["input"] = inputs["target"] + 1e-2 * torch.randn_like(inputs["target"])
    exact = jsd_reference(inputs["input"].double(), inputs["target"].double()).item()
    assert jsd(**inputs).item() == pytest.approx(exact, rel=1e-3)
    assert jsd(inputs["target"], inputs["target"]) == 0


def test_the_limits_of_beta_are_the_two_divergences(device):
    inputs = case(4, 300, device)
    x, y = inputs["input"], inputs["target"]
    torch.testing.assert_close(jsd(x, y, beta=0.0), kl_div(x, y, "batchmean", log_target=True))
    torch.testing.assert_close(jsd(x, y, beta=1.0), kl_div(y, x, "batchmean", log_target=True))


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_a_probability_of_zero_adds_nothing(device, beta):
    inf = float("inf")
    x = torch.tensor([[0.5, 0.5, 0.0, 0.0]], device=device).log().requires_grad_()
    y = torch.tensor([[0.25, 0.0, 0.75, 0.0]], device=device).log()
    loss = jsd(x, y, beta=beta)
    (gradient,) = torch.autograd.grad(loss, x)
    if beta in (0.0, 1.0):
        assert loss == inf  # one has a probability where the other has none
        return
    m = (beta * y.exp() + (1 - beta) * x.exp()).detach()
    parts = [beta * 0.25 * math.log(0.25 / m[0, 0]), (1 - beta) * 0.5 * math.log(0.5 / m[0, 0])]
    parts += [(1 - beta) * 0.5 * math.log(0.5 / m[0, 1]), beta * 0.75 * math.log(0.75 / m[0, 2])]
    assert loss.item() == pytest.approx(sum(parts), rel=1e-6)
    assert gradient.isfinite().all() and (gradient[0, 2:] == 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_what_is_no_number_shows(device, beta):
    x = torch.full((2, 9), -2.0, device=device)
    for at in ("input", "target"):
        values = {"input": x.clone(), "target": x.clone()}
        values[at][0, 3] = float("nan")
        found = jsd(**values, beta=beta, reduction="none").isnan()
        assert found[0, 3] and found.sum() == 1


def test_rows_that_are_ignored_are_not_read_and_have_no_gradient(device):
    inputs = case(6, 40, device)
    labels = torch.tensor([1, -100, 3, -100, 5, 6], device=device)
    x, y = inputs["input"].clone(), inputs["target"].clone()
    x[1::2][:2] = float("nan")
    y[1::2][:2] = float("inf")
    x.requires_grad_()
    loss = jsd(x, y, labels)
    kept = torch.tensor([0, 2, 4, 5], device=device)
    torch.testing.assert_close(loss, jsd(inputs["input"][kept], inputs["target"][kept]))
    (2 * loss).backward()
    assert (x.grad[1::2][:2] == 0).all() and x.grad[kept].ne(0).all()


@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_without_a_row_that_counts_a_mean_is_no_number_and_the_gradient_zero(device, reduction):
    inputs = case(4, 8, device)
    x = inputs["input"].requires_grad_()
    labels = torch.full((4,), -100, device=device)
    loss = jsd(x, inputs["target"], labels, reduction=reduction)
    loss.backward()
    assert loss.isnan() and (x.grad == 0).all()
    assert jsd(x, inputs["target"], labels, reduction="sum") == 0


def test_another_label_may_be_ignored_and_leading_dims_are_rows(device):
    inputs = case(6, 40, device)
    x, y = (one.view(2, 3, 40) for one in inputs.values())
    labels = torch.tensor([[0, 1, 7], [7, 2, 7]], device=device)
    flat = jsd(inputs["input"], inputs["target"], labels.flatten(), ignore_index=7)
    assert torch.equal(jsd(x, y, labels, ignore_index=7), flat)
    assert jsd(x, y, reduction="none").shape == x.shape


def test_inputs_may_lie_anywhere(device):
    inputs = case(6, 129, device)
    wanted = run(jsd, inputs, ["input"])
    for name, form in strided_forms(inputs["target"]):
        found = run(jsd, {**inputs, "target": form}, ["input"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_the_module_and_ligers_function_are_the_function(device):
    x, y = case(5, 65, device).values()
    labels = some_labels(5, device)
    assert torch.equal(LigerJSD()(x, y), jsd(x, y))
    assert torch.equal(LigerJSD(0.2, 1)(x, y, labels), jsd(x, y, labels, 0.2, 1))
    assert torch.equal(liger_jsd(x, y, labels, 0.2, 1), jsd(x, y, labels, 0.2, 1))


def test_refusals(device):
    x = torch.randn(3, 4, device=device)
    assert_refused(lambda: jsd(x, x, beta=1.5), "jsd", "beta", "1.5", "0 to 1")
    assert_refused(lambda: jsd(x, x, beta=float("nan")), "jsd", "beta", "nan")
    assert_refused(lambda: jsd(x, x, reduction="max"), "jsd", "reduction", "'max'")
    assert_refused(lambda: jsd(x, x[:, :2]), "jsd", "target", r"\(3, 2\)")
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    assert_refused(lambda: jsd(x, x, labels), "jsd", "labels", "one label a row")
    with pytest.raises(NotImplementedError, match="target.*detach"):
        jsd(x, x.clone().requires_grad_())
