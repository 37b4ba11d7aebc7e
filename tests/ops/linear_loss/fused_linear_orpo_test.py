"""Odds ratio preference optimisation behind a linear layer, against its formula in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from liger_jit.functional import fused_linear_orpo
from preference_reference import case, check, pairs


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


def test_the_likelihood_may_be_of_other_ids(device):
    inputs, _ = case(device, torch.float32)
    inputs["nll_ids"] = torch.randint(129, inputs["ids"].shape, device=device)
    check(fused_linear_orpo, orpo, inputs, beta=0.3, compute_nll_loss=True, alpha=0.4)


def test_what_is_certain_has_finite_odds(device):
    weight = torch.eye(4, 8, device=device) * 60
    input = (torch.eye(8, device=device)[None, :2] * 60).repeat(2, 1, 1).requires_grad_()
    ids = torch.tensor([[0, 1], [0, 1]], device=device)
    made = fused_linear_orpo(input, weight, ids)
    made.loss.backward()
    assert made.loss.isfinite() and input.grad.isfinite().all()
