"""Losses of a policy that is trained by advantages: GRPO and its kin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from .log_probs import linear_log_probs

_LOSSES = ops.choices("policy_loss", "loss_type")
_LEVELS = ops.choices("policy_loss", "importance_sampling_level")


class PolicyLoss(NamedTuple):
    """Only `loss` is differentiable. kl is zero where beta is."""

    loss: Tensor
    kl: Tensor
    clip_ratio: Tensor


def policy_loss(
    log_probs: Tensor,
    token_mask: Tensor,
    advantages: Tensor,
    ref_log_probs: Tensor | None = None,
    old_log_probs: Tensor | None = None,
    importance_ratio: Tensor | None = None,
    loss_type: str = "dapo",
    importance_sampling_level: str = "token",
    beta: float = 0.04,
    bias_corrected_kl: bool = False,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    delta: float | None = None,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
    max_completion_length: int | None = None,
    num_items: float | Tensor | None = None,
    reduce: bool = True,
) -> PolicyLoss:
    """Loss of a policy by the log-probabilities that it gives to the tokens it was judged by.

    With l a token's log-probability, A the advantage of its sequence, and r = exp(l - old), or exp
    of the mean of l - old over the sequence's tokens for importance_sampling_level="sequence", the
    loss of a token is

        grpo, bnpo, dr_grpo, dapo, luspo:
                -min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A)
        cispo:  -min(r, epsilon_high) A l, the first factor held constant
        sapo:   -4 / t * sigmoid(t (r - 1)) A, where t is sapo_temperature_pos if A > 0, else _neg
        vespo:  -w^k exp(lambda (1 - w)) A l, all before A held constant, where w is the ratio of
                the whole sequence, and k and lambda are those of _pos if A >= 0, else of _neg

    times importance_ratio (for vespo a factor of w), plus beta * kl, where

        kl = exp(ref - l) - (ref - l) - 1, times r with bias_corrected_kl

    and the tokens' losses are added up as the loss type wants it:

        grpo, sapo:          mean over sequences of the mean over a sequence's tokens
        bnpo:                mean over tokens
        dr_grpo:             sum / (sequences * max_completion_length)
        dapo, cispo, vespo:  sum / num_items, or the mean over tokens
        luspo:               mean over all positions, also those of padding, of the loss times the
                             number of the sequence's tokens

    GRPO: arXiv:2402.03300. DAPO: 2503.14476. Dr. GRPO: 2503.20783. GSPO (ratios of sequences):
    2507.18071. CISPO: 2506.13585. SAPO: 2511.20347. LUSPO: 2602.05261. VESPO: 2602.10693.
    Two-sided clip (delta): 2505.07291.

    Args:
        log_probs: [B, T], float32 or float64.
        token_mask: [B, T], of any dtype, zero where a token counts nothing. Such a token may hold
            anything, in importance_ratio too, and has no gradient; but for "luspo" with ratios of
            tokens. A NaN where a token counts makes the loss NaN.
        advantages: [B].
        ref_log_probs, old_log_probs: [B, T], of the reference and of the policy that sampled; None:
            log_probs itself, held constant.
        importance_ratio: [B, T], [B, 1] or [B], a correction for tokens sampled by another engine.
        max_completion_length: of dr_grpo; None: T.
        num_items: of dapo, cispo and vespo, in place of the number of tokens in this batch: a
            number, or a tensor of one element.
        reduce: False gives each token's loss, kl and clip_ratio, [B, T], times the mask.

    Returns:
        PolicyLoss: the loss, and means over tokens of kl and of whether a token's ratio is beyond
        the bound that its advantage pushes it to.

    Raises:
        ValueError: an option, shape or dtype that does not fit.
    """
    return PolicyLoss(
        *ops.policy_loss(
            log_probs,
            *_of_policy(
                "policy_loss",
                log_probs,
                token_mask,
                advantages,
                ref_log_probs,
                old_log_probs,
                importance_ratio,
                num_items,
                loss_type,
                importance_sampling_level,
                beta,
                bias_corrected_kl,
                epsilon_low,
                epsilon_high,
                delta,
                sapo_temperature_pos,
                sapo_temperature_neg,
                vespo_k_pos,
                vespo_lambda_pos,
                vespo_k_neg,
                vespo_lambda_neg,
                max_completion_length,
            ),
            reduce,
        )[:3]
    )


def fused_linear_grpo(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    token_mask: Tensor,
    advantages: Tensor,
    bias: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    old_log_probs: Tensor | None = None,
    importance_ratio: Tensor | None = None,
    ref_input: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    loss_type: str = "dapo",
    importance_sampling_level: str = "token",
    beta: float = 0.04,
    bias_corrected_kl: bool = False,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    delta: float | None = None,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
    max_completion_length: int | None = None,
    num_items: float | Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk_tokens: int = 0,
    memory: str = "auto",
    exact: bool = False,
    counted_tokens: int | None = None,
) -> PolicyLoss:
    """`policy_loss` of the log-probabilities of `linear_log_probs`, without the whole logits.

    The gradients are made in the forward, chunk by chunk, in three matrix products.

    Args:
        input: [B, T, H]. weight: [V, H], of input's dtype. bias: [V] or None.
        ids: [B, T], int64, what was sampled. Where token_mask is zero they may be anything, but
            with "luspo" and ratios of tokens.
        ref_input, ref_weight, ref_bias: the reference as a layer of its own, where ref_log_probs
            are not given: one product more.
        temperature, softcap, chunk_tokens, memory, exact: as in `linear_log_probs` and
            `fused_linear_cross_entropy`.
        counted_tokens: how many tokens token_mask counts, if the caller knows: products are made
            for those only, and one more where a loss is of whole sequences. A number that is too
            small gives NaN. With "luspo", which looks at all tokens, it says nothing.
        All others as in `policy_loss`.

    Returns:
        PolicyLoss, in float32 (float64 for float64). `loss` is differentiable in input, weight and
        bias; the gradient of one that does not require it is not computed.

    Raises:
        ValueError: as `policy_loss`; and an id out of range as `cross_entropy` does.
    """
    op = "fused_linear_grpo"
    least = ops.choice(op, "memory", memory, ops.MEMORY)
    if loss_type == "luspo":
        counted_tokens = None
    if beta != 0.0 and ref_log_probs is None and ref_input is not None:
        taken = ids if loss_type == "luspo" else ids.where(token_mask != 0, -100)
        with torch.no_grad():
            ref_log_probs, _ = linear_log_probs(
                ref_input,
                ref_weight,
                taken,
                ref_bias,
                temperature,
                softcap,
                memory=memory,
                counted_tokens=counted_tokens,
            )
    return PolicyLoss(
        *ops.fused_linear_grpo(
            input,
            weight,
            ids,
            bias,
            *_of_policy(
                op,
                input,
                token_mask,
                advantages,
                ref_log_probs,
                old_log_probs,
                importance_ratio,
                num_items,
                loss_type,
                importance_sampling_level,
                beta,
                bias_corrected_kl,
                epsilon_low,
                epsilon_high,
                delta,
                sapo_temperature_pos,
                sapo_temperature_neg,
                vespo_k_pos,
                vespo_lambda_pos,
                vespo_k_neg,
                vespo_lambda_neg,
                max_completion_length,
            ),
            temperature,
            0.0 if softcap is None else softcap,
            -100,
            0,
            chunk_tokens or least,
            exact,
            ops.counted(counted_tokens),
        )[:3]
    )


def _of_policy(
    op,
    like,
    token_mask,
    advantages,
    ref_log_probs,
    old_log_probs,
    importance_ratio,
    num_items,
    loss_type,
    importance_sampling_level,
    beta,
    bias_corrected_kl,
    epsilon_low,
    epsilon_high,
    delta,
    *shapes_and_length,
):
    """The arguments of a policy, as both operators take them."""
    if token_mask.dtype != torch.int64 and not token_mask.is_floating_point():
        token_mask = token_mask.long()
    if importance_ratio is not None and importance_ratio.dim() == 1:
        importance_ratio = importance_ratio.unsqueeze(1)
    if num_items is not None:
        num_items = ops.as_num_items(op, num_items, "mean", like)
    *shapes, max_completion_length = shapes_and_length
    return (
        token_mask,
        advantages,
        ref_log_probs,
        old_log_probs,
        importance_ratio,
        num_items,
        ops.choice(op, "loss_type", loss_type, _LOSSES),
        ops.choice(op, "importance_sampling_level", importance_sampling_level, _LEVELS),
        beta,
        bias_corrected_kl,
        epsilon_low,
        epsilon_high,
        0.0 if delta is None else delta,
        *shapes,
        max_completion_length or 0,
    )
