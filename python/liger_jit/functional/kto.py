"""Preference optimisation of sequences that are each desirable or not."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from .preference import last_options


class KTOOutput(NamedTuple):
    """What `fused_linear_kto` returns; only the loss is differentiable. Sums over sequences."""

    loss: Tensor
    chosen_logps_sum: Tensor
    rejected_logps_sum: Tensor
    chosen_logits_sum: Tensor  # of input @ weight.T + bias over all tokens, ignored ones too
    rejected_logits_sum: Tensor
    chosen_rewards_sum: Tensor
    rejected_rewards_sum: Tensor


def fused_linear_kto(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    preference_labels: Tensor,
    bias: Tensor | None = None,
    kl: Tensor | None = None,
    ref_input: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    beta: float = 0.1,
    average_log_prob: bool = False,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> KTOOutput:
    """Kahneman-Tversky optimisation (arXiv:2402.01306), from hidden states.

    With c the log-ratio of a sequence to the reference model and s the logistic function, the mean
    over sequences of 1 - s(beta (c - kl)) of a chosen and 1 - s(beta (kl - c)) of another one.

    Args:
        input: [B, T, H]. weight: [V, H], of input's dtype. bias: [V] or None.
        ids: [B, T] int64, what each token is to predict, or ignore_index where nothing counts.
        preference_labels: [B], bool or int64, true where a sequence is a chosen one.
        kl: one number or [B], the policy's divergence from the reference, held constant; None: 0.
        All others as in `fused_linear_dpo`.

    Returns:
        KTOOutput, in float32, float64 for float64, on the device. Differentiable in input, weight
        and bias; the gradient of one that does not require it is not computed.

    Raises:
        ValueError: as `fused_linear_dpo`.
    """
    if kl is not None:
        kl = kl.detach().to(torch.promote_types(input.dtype, torch.float32)).reshape(-1)
    return KTOOutput(
        *ops.fused_linear_kto(
            input,
            weight,
            ids,
            bias,
            preference_labels.long(),
            kl,
            ref_input,
            ref_weight,
            ref_bias,
            ref_log_probs,
            beta,
            average_log_prob,
            *last_options(
                "fused_linear_kto",
                temperature,
                softcap,
                ignore_index,
                memory,
                False,
                counted_tokens,
            ),
        )[:7]
    )
