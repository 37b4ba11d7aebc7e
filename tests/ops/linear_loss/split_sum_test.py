"""Sums of 24 bits, of which the upper 16 become the result, against sums in float64."""

import pytest
import torch
from accuracy import relative_error
from samples import operator


def added(terms):
    add = operator("add_to_split_sum_")
    high = torch.full(terms[0].shape, 7.0, device=terms[0].device).bfloat16()
    low = torch.full(terms[0].shape, 7, device=high.device, dtype=torch.uint8)
    for i, term in enumerate(terms):
        if i == len(terms) - 1:
            truncated = high.clone(), low.clone()
        add(term, high, low, first=i == 0, last=i == len(terms) - 1)
    return high, truncated


@pytest.mark.parametrize("rows, width", [(1, 8), (5, 40), (3, 1024), (2, 8200)])
def test_it_is_as_exact_as_one_rounding(device, rows, width):
    terms = [torch.randn(rows, width, device=device) for _ in range(65)]
    exact = torch.stack(terms).double().sum(0)
    high, _ = added(terms)
    assert relative_error(high, exact) <= 1.01 * relative_error(exact.bfloat16(), exact) + 1e-5
    in_16_bits = terms[0].bfloat16()
    for term in terms[1:]:
        in_16_bits = in_16_bits + term.bfloat16()
    assert 2 * relative_error(high, exact) < relative_error(in_16_bits, exact)


def test_between_terms_it_has_24_bits_rounded_to_the_nearest(device):
    term = torch.randn(4, 64, device=device) * torch.logspace(-30, 30, 64, device=device)
    _, (high, low) = added([term, term])
    bits = high.view(torch.int16).int() << 16 | low.int() << 8
    assert ((bits.view(torch.float32) - term).abs() <= term.abs() * 2**-16).all()
    ties = torch.tensor([1 + 2**-16, 1 + 3 * 2**-16, -1 - 2**-16] * 8, device=device)[None]
    _, (high, low) = added([ties, ties])
    bits = high.view(torch.int16).int() << 16 | low.int() << 8
    assert bits.view(torch.float32)[0, :3].tolist() == [1.0, 1 + 2**-14, -1.0]


def test_what_is_no_number_stays_and_what_overflows_is_infinite(device):
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-42])
    odd = odd.to(device)[None]
    none = torch.zeros_like(odd)
    high, _ = added([odd, none, none])
    wanted = [torch.nan, torch.inf, -torch.inf, torch.inf, -torch.inf, 0.0, 0.0, 0.0]
    torch.testing.assert_close(high.float()[0].cpu(), torch.tensor(wanted), equal_nan=True)
    high, _ = added([odd, odd, -odd])
    assert high[0, :3].isnan().all() and high[0, 3:5].isinf().all()


def test_sums_of_other_layouts_are_refused(device):
    x = torch.randn(2, 8, device=device)
    low = torch.zeros(2, 8, device=device, dtype=torch.uint8)
    with pytest.raises(ValueError, match="low"):
        operator("add_to_split_sum_")(x, x.bfloat16(), low[:1], first=True, last=False)
    x = torch.randn(2, 9, device=device)
    low = torch.zeros(2, 9, device=device, dtype=torch.uint8)
    with pytest.raises(ValueError, match="multiple of"):
        operator("add_to_split_sum_")(x, x.bfloat16(), low, first=True, last=False)
