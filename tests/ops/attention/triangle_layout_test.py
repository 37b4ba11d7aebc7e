"""Lower triangles with their channels put last, and back, against permute and tril."""

import pytest
import torch
from accuracy import assert_refused, dtypes_of
from samples import operator

to_last = operator("triangle_to_channels_last")
from_last = operator("triangle_from_channels_last")
softmax_backward = operator("causal_softmax_backward_from_channels_last")

# 8 and 64: whole packs; 5, 13 and 33: none, or one that is not; 72: more than a warp's neighbours
SIZES = [(8, 8), (64, 16), (5, 3), (33, 8), (64, 13), (13, 72), (1, 1), (130, 24)]


def squares(channels, length, dtype, device, batch=3):
    return torch.randn(batch, channels, length, length, device=device).to(dtype)


def beyond(x):
    return torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1)


def spoilt(x):
    """What lies beyond the diagonal is not a number."""
    return x.masked_fill(beyond(x), float("nan"))


def last(x):
    return x.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("length, channels", SIZES)
def test_a_triangle_is_turned_and_clean_beyond_the_diagonal(device, length, channels):
    for dtype in dtypes_of(device):
        x = squares(channels, length, dtype, device)
        assert torch.equal(to_last(spoilt(x)), last(x.tril()))
        assert torch.equal(from_last(last(spoilt(x)), None), x.tril())


@pytest.mark.parametrize("length, channels", SIZES)
def test_a_bias_is_added_up_to_the_diagonal(device, length, channels):
    for dtype in dtypes_of(device):
        x = squares(channels, length, dtype, device)
        bias = torch.randn(channels, device=device).to(dtype)
        made = from_last(last(spoilt(x)), bias)
        assert torch.equal(made, (x + bias.view(-1, 1, 1)).tril())


@pytest.mark.parametrize("length, channels", [*SIZES, (700, 8), (40, 130)])
def test_a_softmax_is_gone_back_through_and_its_channels_come_first(device, length, channels):
    for dtype in dtypes_of(device):
        y = squares(channels, length, torch.float64, device, 2)
        y = y.masked_fill(beyond(y), float("-inf")).softmax(-1).to(dtype)
        dy = squares(channels, length, dtype, device, 2)
        made = softmax_backward(*(last(spoilt(x)) for x in (dy, y)))
        p, d = y.double(), dy.double()
        wanted = (p * (d - (p * d).tril().sum(-1, keepdim=True))).tril()
        assert made.shape == y.shape and made.is_contiguous() and made.dtype == dtype
        assert not made[..., beyond(made)].any()
        exact = {torch.bfloat16: 4e-3, torch.float16: 5e-4}.get(dtype, 1e-6)
        torch.testing.assert_close(made.double(), wanted, rtol=exact, atol=1e-6)


def test_rows_that_begin_anywhere_are_read(device):
    for dtype in dtypes_of(device):
        memory = torch.randn(2 * 8 * 16 * 16 + 1, device=device).to(dtype)[1:]
        x = memory.view(2, 8, 16, 16)
        assert torch.equal(to_last(x), last(x.tril()))
        turned = memory.view(2, 16, 16, 8)
        assert torch.equal(from_last(turned, None), turned.permute(0, 3, 1, 2).tril())


def test_what_is_no_square_is_refused(device):
    x = torch.randn(2, 4, 5, 6, device=device)
    assert_refused(lambda: to_last(x), "triangle_to_channels_last", "x", "N, N")
    assert_refused(lambda: from_last(x, None), "triangle_from_channels_last", "x", "N, N")
    turned, bias = torch.randn(2, 5, 5, 4, device=device), torch.randn(3, device=device)
    assert_refused(lambda: from_last(turned, bias), "triangle_from_channels_last", "bias", r"\[4\]")
