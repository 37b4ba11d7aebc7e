"""Odds ratio preference optimisation behind a linear layer, against its formula in plain torch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from liger_jit.functional import fused_linear_orpo
from preference_reference import IGNORED, case, check, pairs


def orpo(beta, compute_nll_loss, alpha, **tensors):
    def odds(c, r):
        return c - r - (torch.log1p(-c.exp()) - torch.log1p(-r.exp()))

    def more(c, r):
        return F.logsigmoid(odds(c, r)).mean(), odds(c, r).mean()

    def formula(c, r):
        return -beta * F.logsigmoid(odds(c, r))

    return pairs(formula, True, beta, compute_nll_loss, alpha, more=more, **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nll", [False, True])
def test_it_is_as_exact_as_eager(device, dtype, nll):
    check(
        fused_linear_orpo, orpo, case(device, dtype)[0], beta=0.3, compute_nll_loss=nll, alpha=0.4
    )


def with_other_ids(inputs):
    """Some ignored in one way, some in the other, some in both, some the same in both."""
    other = torch.randint(129, inputs["ids"].shape, device=inputs["ids"].device)
    other[:, 2:5] = IGNORED
    other[:, 7] = inputs["ids"][:, 7]
    return inputs | {"nll_ids": other}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_likelihood_may_be_of_other_ids(device, dtype):
    inputs = with_other_ids(case(device, dtype)[0])
    check(fused_linear_orpo, orpo, inputs, beta=0.3, compute_nll_loss=True, alpha=0.4)
    check(fused_linear_orpo, orpo, inputs, beta=0.3, compute_nll_loss=False, alpha=0.4)


# Chunks of pairs, of a pair, and statistics of all tokens first.
@pytest.mark.parametrize("chunk_tokens", [660, 1, -1])
def test_any_chunks_have_both_ids(device, chunk_tokens):
    inputs = with_other_ids(case(device, torch.float32)[0])

    def ours(**tensors):
        return torch.ops.liger_jit.fused_linear_orpo(**tensors, chunk_tokens=chunk_tokens)[:10]

    check(ours, partial(orpo, beta=0.1, compute_nll_loss=True, alpha=1.0), inputs)


def test_a_token_is_kept_where_one_of_its_ids_counts(device):
    inputs, _ = case(device, torch.float32, batch=6, tokens=200)
    inputs["ids"][:, 20:] = IGNORED
    inputs["nll_ids"] = inputs["ids"].roll(10, 1)
    inputs["nll_ids"][:, :10] = IGNORED
    counted = int(((inputs["ids"] != IGNORED) | (inputs["nll_ids"] != IGNORED)).sum())
    options = {"beta": 0.3, "compute_nll_loss": True, "alpha": 0.4}
    check(partial(fused_linear_orpo, counted_tokens=counted), orpo, inputs, **options)


def test_other_ids_cost_no_product(device):
    inputs = with_other_ids(case(device, torch.bfloat16, batch=6, tokens=9)[0])
    del inputs["bias"]
    inputs["input"].requires_grad_()
    inputs["weight"].requires_grad_()
    with torch.profiler.profile() as profile:
        fused_linear_orpo(**inputs).loss.backward()
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))
    assert products == 3


def test_a_bad_id_of_the_likelihood_is_reported_by_its_name():
    inputs = with_other_ids(case("cpu", torch.float32, batch=6, tokens=9)[0])
    inputs["nll_ids"][1, 6] = 1025
    with pytest.raises(ValueError, match="orpo: element 15 of argument 'nll_ids' is 1025; allowed"):
        fused_linear_orpo(**inputs)
    with pytest.raises(ValueError, match="orpo.*argument 'nll_ids' has shape"):
        fused_linear_orpo(**inputs | {"nll_ids": inputs["nll_ids"][:, 1:]})


def test_what_is_certain_has_finite_odds(device):
    weight = torch.eye(4, 8, device=device) * 60
    input = (torch.eye(8, device=device)[None, :2] * 60).repeat(2, 1, 1).requires_grad_()
    ids = torch.tensor([[0, 1], [0, 1]], device=device)
    made = fused_linear_orpo(input, weight, ids)
    made.loss.backward()
    assert made.loss.isfinite() and input.grad.isfinite().all()
