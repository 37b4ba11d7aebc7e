"""GRPO's loss of logits that exist, and log-probabilities of what was sampled, as in Liger."""

import torch

from ..chunked_loss.grpo_loss import items_of_a_rank
from ..functional import policy_loss, selective_log_softmax


def _of_tokens(logits, ids, temperature, mask):
    """[B, L] of logits [B, L+1, V], of which the last predicts what was not sampled."""
    ids = ids[:, 1 - logits.shape[1] :]
    if mask is not None:
        ids = ids.where(mask[:, 1 - logits.shape[1] :] != 0, -100)
    return selective_log_softmax(logits[:, :-1], ids, temperature)


@torch.no_grad()
def fused_selective_log_softmax(logits, input_ids, temperature=0.9, mask=None):
    """Of logits [B, L+1, V] and the last L of input_ids: log-probabilities, float32 [B, L], 0 where
    the mask is. Without a gradient, as in Liger Kernel."""
    return _of_tokens(logits, input_ids, temperature, mask)


def triton_grpo_loss(
    logits,
    old_logp,
    ref_logp,
    completion_ids,
    advantages,
    completion_mask=None,
    temperature=0.9,
    beta=0.04,
    eps_low=0.2,
    eps_high=0.4,
    inplace=True,
    loss_type="dapo",
    max_completion_length=None,
    importance_sampling_level="token",
    reduce=False,
    sapo_temperature_pos=1.0,
    sapo_temperature_neg=1.05,
    vllm_is_ratio=None,
    delta=None,
    use_bias_correction_kl=False,
    num_items_in_batch=None,
    vespo_k_pos=2.0,
    vespo_lambda_pos=3.0,
    vespo_k_neg=3.0,
    vespo_lambda_neg=2.0,
):
    """`functional.policy_loss` of logits [B, L+1, V]; `inplace` does nothing.

    Returns:
        With reduce (loss, [kl unless beta is 0, clip ratio]); else loss, kl (None if beta is 0) and
        whether clipped of each token, float32 [B, L]. Masked tokens count nothing, whatever the
        loss type.
    """
    if beta != 0.0 and ref_logp is None:
        raise ValueError(
            f"triton_grpo_loss: beta={beta} and ref_logp is None; allowed: [B, L], or beta=0"
        )
    log_probs = _of_tokens(logits, completion_ids, temperature, completion_mask)
    mask = torch.ones_like(log_probs) if completion_mask is None else completion_mask
    options = {
        "ref_log_probs": ref_logp,
        "old_log_probs": old_logp,
        "importance_ratio": vllm_is_ratio,
        "loss_type": loss_type,
        "importance_sampling_level": importance_sampling_level,
        "beta": beta,
        "bias_corrected_kl": use_bias_correction_kl,
        "epsilon_low": eps_low,
        "epsilon_high": eps_high,
        "delta": delta,
        "sapo_temperature_pos": sapo_temperature_pos,
        "sapo_temperature_neg": sapo_temperature_neg,
        "vespo_k_pos": vespo_k_pos,
        "vespo_lambda_pos": vespo_lambda_pos,
        "vespo_k_neg": vespo_k_neg,
        "vespo_lambda_neg": vespo_lambda_neg,
        "max_completion_length": max_completion_length,
    }
    if not reduce:
        loss, kl, clipped = policy_loss(log_probs, mask, advantages, reduce=False, **options)
        return loss, kl if beta != 0.0 else None, clipped
    options["num_items"] = items_of_a_rank(loss_type, mask, num_items_in_batch)
    loss, kl, clip_ratio = policy_loss(log_probs, mask, advantages, **options)
    if loss_type == "luspo":  # whose mean would take padding for tokens
        of_tokens = policy_loss(log_probs, mask, advantages, reduce=False, **options).loss
        loss = (of_tokens * mask.sum(-1, keepdim=True)).mean()
    return loss, [kl, clip_ratio] if beta != 0.0 else [clip_ratio]
