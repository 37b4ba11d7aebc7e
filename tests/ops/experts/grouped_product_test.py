"""Grouped products and sums by template, which GPUs without torch's use, against float64."""

import pytest
import torch
from accuracy import TOLERANCE, dtypes_of, relative_error
from liger_jit.library import native

ENDS = [0, 70, 70, 71, 500, 500]
PLACES = 503  # the last three are nobody's
# The matrix units of sm_90a take sizes that are multiples of 8.
SIZES = [(37, 130), (72, 392)]


def groups(device):
    tokens = torch.randint(90, (PLACES,), device=device, dtype=torch.int32)
    starts = [0, *ENDS[:-1]]
    return tokens, torch.tensor(ENDS, device=device, dtype=torch.int32), zip(starts, ENDS)


def assert_close(found, exact, dtype):
    limit = {torch.float32: 3e-6, torch.float64: 1e-14}.get(dtype, TOLERANCE[dtype].scalar_slack)
    assert relative_error(found, exact) <= limit


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("inner, columns", SIZES)
def test_products(device, gathers, turned, inner, columns):
    for dtype in dtypes_of(device):
        tokens, ends, spans = groups(device)
        x = torch.randn(90 if gathers else PLACES, inner, device=device).to(dtype)
        shape = (6, inner, columns) if turned else (6, columns, inner)
        weight = torch.randn(shape, device=device).to(dtype)
        found = native().grouped_product(x, weight, tokens, ends, gathers, turned)
        rows = (x[tokens.long()] if gathers else x).double()
        for expert, (begin, end) in enumerate(spans):
            w = weight[expert].double()
            exact = rows[begin:end] @ (w if turned else w.t())
            assert_close(found[begin:end], exact, dtype)
        assert not found[ENDS[-1] :].any()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gathers", [(False, False), (True, False), (False, True)])
def test_weight_gradients(device, gathers, sizes):
    for dtype in dtypes_of(device):
        tokens, ends, spans = groups(device)
        left, right = (
            torch.randn(90 if one else PLACES, size, device=device).to(dtype)
            for one, size in zip(gathers, sizes, strict=True)
        )
        for one, rows in zip(gathers, (left, right), strict=True):
            if not one:
                rows[ENDS[-1] :] = float("nan")  # nobody's
        found = native().grouped_weight_gradient(left, right, tokens, ends, *gathers)
        a, b = (
            (rows[tokens.long()] if one else rows).double()
            for one, rows in zip(gathers, (left, right), strict=True)
        )
        for expert, (begin, end) in enumerate(spans):
            assert_close(found[expert], a[begin:end].t() @ b[begin:end], dtype)


def test_products_in_a_queue_end_with_the_same_bits(device):
    """Of experts whose last tiles have work for one half of a block."""
    experts, inner, columns, times = (96, 1024, 512, 200) if device == "cuda" else (3, 40, 24, 2)
    counts = torch.randint(1, 128, (experts,))
    ends = counts.cumsum(0).int().to(device)
    places = int(counts.sum())
    tokens = torch.randint(90, (places,), device=device, dtype=torch.int32)
    x, rows = (torch.randn(n, inner, device=device).bfloat16() for n in (90, places))
    weight = torch.randn(experts, columns, inner, device=device).bfloat16()

    def both():
        y = native().grouped_product(x, weight, tokens, ends, True, False)
        dx = native().grouped_product(y, weight, tokens, ends, False, True)
        of_gathered = native().grouped_weight_gradient(y, x, tokens, ends, False, True)
        return (
            y,
            dx,
            of_gathered,
            native().grouped_weight_gradient(y, rows, tokens, ends, *[False] * 2),
        )

    first = both()
    differ = [torch.zeros((), device=device) for _ in first]
    for _ in range(times):
        for count, one, other in zip(differ, first, both(), strict=True):
            count += (one != other).sum()
    assert [int(count) for count in differ] == [0] * 4


@pytest.mark.parametrize("width", [1, 12, 129])
def test_sums_of_rows(device, width):
    for dtype in dtypes_of(device):
        _, ends, spans = groups(device)
        order = torch.randperm(PLACES, device=device).int()
        # Of one sign: the error of a sum is relative to the sum.
        x = torch.rand(PLACES, width, device=device).to(dtype)
        weights = torch.rand(PLACES, 1, device=device).to(dtype)
        plain = native().sum_by_expert(x, None, order, ends)
        weighted = native().sum_by_expert(x, weights, order, ends)
        rows = (x.double() * weights.double())[order.long()]
        for expert, (begin, end) in enumerate(spans):
            assert_close(plain[expert], x[begin:end].double().sum(0), dtype)
            assert_close(weighted[expert], rows[begin:end].sum(0), dtype)
