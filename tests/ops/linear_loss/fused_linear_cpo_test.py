"""Contrastive preference optimisation behind a linear layer, against its formula in plain torch."""

import pytest
import torch
from liger_jit.functional import fused_linear_cpo
from preference_reference import case, check, logistic, pairs


def cpo(beta, label_smoothing, average_log_prob, compute_nll_loss, alpha, **tensors):
    def formula(c, r):
        return logistic(beta * (c - r), label_smoothing)

    return pairs(formula, average_log_prob, beta, compute_nll_loss, alpha, **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nll", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_it_is_as_exact_as_eager(device, dtype, nll, average):
    options = {"beta": 0.3, "compute_nll_loss": nll, "alpha": 0.4, "label_smoothing": 0.1}
    check(fused_linear_cpo, cpo, case(device, dtype)[0], average_log_prob=average, **options)
