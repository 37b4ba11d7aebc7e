"""Sparsemax against a sort in float64: support, dtypes, lengths, dims, extreme values."""

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run, strided_forms
from liger_jit.bench.peers.eager import sparsemax as reference
from liger_jit.functional import sparsemax
from liger_jit.transformers import LigerSparsemax
from liger_jit.transformers.functional import liger_sparsemax


def check(x):
    return assert_as_exact_as_eager(sparsemax, reference, {"x": x}, ["x"])


@pytest.mark.parametrize("width", [1, 7, 8, 64, 129, 1000, 1023, 1025, 2048, 4100, 32768, 50257])
def test_every_width_is_as_exact_as_eager(device, width):
    check(torch.randn(6, width, device=device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        # Of eighths an element is at tau, or far from it.
        x = (torch.randn(2, 17, 193, device=device) * 8).round().div(8).to(dtype)
        assert check(x)["output 0"].dtype == dtype


# From one element that has all to all elements, which is the most steps and all packs.
@pytest.mark.parametrize("scale", [100.0, 1.0, 1e-2, 1e-4, 0.0])
@pytest.mark.parametrize("width", [333, 5000])
def test_the_support_is_that_of_a_sort(device, scale, width):
    x = scale * torch.randn(8, width, device=device)
    y, wanted = sparsemax(x), reference(x.double())
    assert torch.equal((y > 0).sum(-1), (wanted > 0).sum(-1))
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=2e-7)
    torch.testing.assert_close(y.sum(-1), torch.ones(8, device=device), rtol=0, atol=1e-5)


def test_an_offset_changes_nothing_and_ties_share(device):
    x = torch.randn(4, 99, device=device).mul(16).round().div(16)
    assert torch.equal(sparsemax(x + 1024), sparsemax(x))
    assert torch.equal(
        sparsemax(torch.full((2, 4), 7.0, device=device)), torch.full((2, 4), 0.25, device=device)
    )


def test_what_no_number_stands_for(device):
    inf, nan = float("inf"), float("nan")
    for width in (4, 4096):
        x = torch.full((6, width), -inf, device=device)
        x[:, :4] = torch.tensor(
            [
                [1.0, -inf, 0.5, -inf],
                [3e38, -3e38, 0.0, 0.0],
                [nan, 1.0, 2.0, 3.0],
                [1.0, 2.0, 3.0, nan],
                [inf, 1.0, 2.0, 3.0],
                [-inf, -inf, -inf, -inf],
            ],
            device=device,
        )
        y = sparsemax(x)
        assert y[0, :4].tolist() == [0.75, 0.0, 0.25, 0.0] and y[1, :4].tolist() == [
            1.0,
            0.0,
            0.0,
            0.0,
        ]
        assert (y[:2, 4:] == 0).all() and y[2:].isnan().all()


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_every_dim(device, dim):
    x = torch.randn(5, 6, 7, device=device, requires_grad=True)
    dy = torch.randn_like(x)
    y = sparsemax(x, dim)
    wanted = reference(x.transpose(dim, -1)).transpose(dim, -1)
    torch.testing.assert_close(y, wanted)
    found, truth = (torch.autograd.grad(one, x, dy)[0] for one in (y, wanted))
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("width", [129, 4096])
def test_inputs_and_gradients_may_lie_anywhere(device, width):
    x = torch.randn(6, width, device=device)
    wanted = run(sparsemax, {"x": x}, ["x"])
    for name, form in strided_forms(x):
        found = run(sparsemax, {"x": form}, ["x"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_nothing_gives_nothing(device):
    x = torch.randn(4, 33, device=device)
    assert sparsemax(x[:0]).shape == (0, 33)
    assert sparsemax(x[0]).shape == (33,)


def test_the_module_and_ligers_function_are_the_function(device):
    x = torch.randn(3, 65, device=device, dtype=torch.bfloat16)
    assert torch.equal(LigerSparsemax()(x), sparsemax(x))
    assert torch.equal(LigerSparsemax(0)(x), sparsemax(x, 0))
    assert torch.equal(liger_sparsemax(x, 0), sparsemax(x, 0))


def test_refusals(device):
    whole = torch.ones(3, dtype=torch.int64, device=device)
    assert_refused(lambda: sparsemax(whole), "sparsemax", "x")
    assert_refused(lambda: sparsemax(torch.ones(3, device=device), 2), "[Dd]im")
