"""Mixtures of residual streams before and after a layer, and the gradients of their factors."""

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of
from liger_jit.functional import mhc_post_res, mhc_pre
from residual_reference import reference_post_res, reference_pre


def check(ours, reference, inputs, wrt, **options):
    # Sums of products in another order than eager's.
    products = 1e-13 if inputs["x"].dtype == torch.float64 else 1e-6
    assert_as_exact_as_eager(
        lambda **all_: ours(**all_, **options),
        lambda **all_: reference(**all_, **options),
        inputs,
        wrt,
        slack_of_products=products,
    )


@pytest.mark.parametrize(
    "hc, c", [(1, 1), (2, 7), (4, 64), (4, 1025), (4, 4096), (8, 40), (16, 24)]
)
def test_mixtures_are_as_exact_as_eager(device, hc, c):
    for dtype in dtypes_of(device):
        of = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else torch.float32}
        x = torch.randn(9, hc, c, device=device).to(dtype)
        before = {"x": x, "h_pre": torch.rand(9, hc, **of)}
        check(mhc_pre, reference_pre, before, ("x", "h_pre"))
        after = {
            "x": x,
            "f_out": torch.randn(9, c, device=device).to(dtype),
            "h_post": torch.rand(9, hc, **of),
            "h_res": torch.rand(9, hc, hc, **of),
        }
        check(mhc_post_res, reference_post_res, after, ("x", "f_out", "h_post", "h_res"))


def test_a_layers_output_may_have_a_dtype_of_its_own(device):
    x = torch.randn(9, 4, 64, device=device).bfloat16()
    f_out = torch.randn(9, 64, device=device)
    h_post, h_res = torch.rand(9, 4, device=device), torch.rand(9, 4, 4, device=device)
    inputs = {"x": x, "f_out": f_out, "h_post": h_post, "h_res": h_res}
    check(mhc_post_res, reference_post_res, inputs, tuple(inputs))


def test_errors_name_the_argument_and_its_value(device):
    x = torch.randn(4, 4, 64, device=device)
    h = torch.rand(4, 4, device=device)
    h_res = h.expand(4, 4, 4)
    op = "mhc_post_res"
    assert_refused(lambda: mhc_pre(x[0, 0], h), "mhc_pre", r"\bx\b", "64", "HC, C")
    assert_refused(lambda: mhc_pre(x, h[:, :3]), "mhc_pre", "h_pre", "4, 3", "4, 4")
    assert_refused(lambda: mhc_post_res(x, x[0, :3], h, h_res), op, "f_out", "3, 64", "4, 64")
    assert_refused(lambda: mhc_post_res(x, x[0], h[:3], h_res), op, "h_post", "3, 4", "4, 4")
    assert_refused(lambda: mhc_post_res(x, x[0], h, h_res[:2]), op, "h_res", "2, 4, 4", "4, 4, 4")
