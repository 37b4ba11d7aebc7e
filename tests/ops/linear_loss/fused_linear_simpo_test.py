"""Simple preference optimisation behind a linear layer, against its formula in plain torch."""

import pytest
import torch
from liger_jit.functional import fused_linear_simpo
from preference_reference import case, check, logistic, pairs


def simpo(beta, gamma, label_smoothing, compute_nll_loss, alpha, **tensors):
    def formula(c, r):
        return logistic(beta * (c - r) - gamma, label_smoothing)

    return pairs(formula, True, beta, compute_nll_loss, alpha, **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nll", [False, True])
def test_it_is_as_exact_as_eager(device, dtype, nll):
    options = {"beta": 0.3, "compute_nll_loss": nll, "alpha": 0.4, "label_smoothing": 0.1}
    check(fused_linear_simpo, simpo, case(device, dtype)[0], gamma=0.7, **options)
