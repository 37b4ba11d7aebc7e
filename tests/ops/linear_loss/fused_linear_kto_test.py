"""Kahneman-Tversky optimisation behind a linear layer, against its formula in plain torch."""

import pytest
import torch
from liger_jit.functional import fused_linear_kto
from preference_reference import case, check, sequences


def kto(
    beta,
    average_log_prob,
    input,
    weight,
    ids,
    bias,
    preference_labels,
    kl=None,
    ref_input=None,
    ref_weight=None,
    ref_bias=None,
):
    logps, _, logits = sequences(input, weight, bias, ids, average_log_prob)
    ratios = logps
    if ref_input is not None:
        ratios = logps - sequences(ref_input, ref_weight, ref_bias, ids, average_log_prob)[0]
    ahead = ratios if kl is None else ratios - kl
    loss = torch.sigmoid(-beta * ahead * torch.where(preference_labels, 1, -1)).mean()
    sums = [
        one[chosen].sum().detach()
        for one in (logps, logits.sum((1, 2)), beta * ratios)
        for chosen in (preference_labels, ~preference_labels)
    ]
    return loss, *sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_kto_is_as_exact_as_eager(device, dtype, average, with_reference):
    inputs, reference = case(device, dtype)
    labels = torch.tensor([True, False, True, True, False, False], device=device)
    inputs["preference_labels"] = labels.repeat(len(inputs["ids"]) // 6)
    inputs |= reference if with_reference else {}
    for kl in ({}, {"kl": torch.tensor(0.3, device=device)}):
        check(fused_linear_kto, kto, inputs | kl, beta=0.05, average_log_prob=average)
