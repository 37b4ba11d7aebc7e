"""Lower triangles with their channels put last, and back, against permute and tril."""

import pytest
import torch
from accuracy import assert_refused, dtypes_of
from samples import operator

to_last = operator("triangle_to_channels_last")
from_last = operator("triangle_from_channels_last")

# 8 and 64: whole packs; 5, 13 and 33: none, or one that is not; 72: more than a warp's neighbours
SIZES = [(8, 8), (64, 16), (5, 3), (33, 8), (64, 13), (13, 72), (1, 1), (130, 24)]


def squares(channels, length, dtype, device, batch=3):
    return torch.randn(batch, channels, length, length, device=device).to(dtype)


def spoilt(x):
    """What lies beyond the diagonal is not a number."""
    beyond = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
    return x.masked_fill(beyond, float("nan"))


@pytest.mark.parametrize("length, channels", SIZES)
def test_a_triangle_is_turned_and_clean_beyond_the_diagonal(device, length, channels):
    for dtype in dtypes_of(device):
        x = squares(channels, length, dtype, device)
        last = x.tril().permute(0, 2, 3, 1).contiguous()
        assert torch.equal(to_last(spoilt(x)), last)
        spoilt_last = spoilt(x).permute(0, 2, 3, 1).contiguous()
        assert torch.equal(from_last(spoilt_last, None), x.tril())


@pytest.mark.parametrize("length, channels", SIZES)
def test_a_bias_is_added_up_to_the_diagonal(device, length, channels):
    for dtype in dtypes_of(device):
        x = squares(channels, length, dtype, device)
        bias = torch.randn(channels, device=device).to(dtype)
        made = from_last(spoilt(x).permute(0, 2, 3, 1).contiguous(), bias)
        assert torch.equal(made, (x + bias.view(-1, 1, 1)).tril())


def test_up_to_the_diagonal_it_is_the_same_where_nothing_is_cleared(device):
    x = squares(16, 40, torch.bfloat16, device)
    made = from_last(x.permute(0, 2, 3, 1).contiguous(), None, False)
    assert torch.equal(made.tril(), x.tril())


def test_rows_that_begin_anywhere_are_read(device):
    for dtype in dtypes_of(device):
        memory = torch.randn(2 * 8 * 16 * 16 + 1, device=device).to(dtype)[1:]
        x = memory.view(2, 8, 16, 16)
        assert torch.equal(to_last(x), x.tril().permute(0, 2, 3, 1).contiguous())
        last = memory.view(2, 16, 16, 8)
        assert torch.equal(from_last(last, None), last.permute(0, 3, 1, 2).tril())


def test_what_is_no_square_is_refused(device):
    x = torch.randn(2, 4, 5, 6, device=device)
    assert_refused(lambda: to_last(x), "triangle_to_channels_last", "x", "N, N")
    assert_refused(lambda: from_last(x, None), "triangle_from_channels_last", "x", "N, N")
    last, bias = torch.randn(2, 5, 5, 4, device=device), torch.randn(3, device=device)
    assert_refused(lambda: from_last(last, bias), "triangle_from_channels_last", "bias", r"\[4\]")
