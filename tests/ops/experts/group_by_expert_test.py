"""Pairs in the order of their experts, against torch's stable sort."""

import pytest
import torch
from liger_jit.library import native


def check(indices, experts):
    order, tokens, places, ends = native().group_by_expert(indices, experts)
    flat = indices.flatten().long()
    expected = torch.sort(flat, stable=True).indices
    assert torch.equal(order.long(), expected)
    assert torch.equal(tokens.long(), expected // indices.shape[1])
    assert torch.equal(order[places.long()].long(), torch.arange(len(flat), device=flat.device))
    counts = torch.bincount(flat, minlength=experts + 1)[:experts]
    assert torch.equal(ends.long(), counts.cumsum(0))


# One list of pairs, one less and one more, and many.
@pytest.mark.parametrize("tokens", [1, 2, 512, 513, 5000])
@pytest.mark.parametrize("experts", [1, 2, 128, 3000])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_it_is_a_stable_sort(device, tokens, experts, dtype):
    check(torch.randint(experts, (tokens, 2), device=device, dtype=dtype), experts)


def test_a_million_pairs(device):
    check(torch.randint(64, (1 << 17, 8), device=device), 64)


def test_uneven_and_empty_experts(device):
    check(torch.full((700, 3), 6, device=device), 7)
    check(torch.full((700, 3), 0, device=device), 7)
    check(torch.arange(2100, device=device).reshape(700, 3) % 2 * 5, 7)


def test_pairs_of_nobody_come_last(device):
    check(torch.randint(8, (900, 2), device=device), 7)


def test_no_tokens(device):
    order, _, _, ends = native().group_by_expert(torch.zeros(0, 2, device=device).long(), 3)
    assert order.shape == (0,)
    assert ends.tolist() == [0, 0, 0]
