"""Proximal policy optimisation behind a linear layer, for loops of one's own."""

from typing import NamedTuple

import torch
from torch import Tensor

from .log_probs import linear_log_probs


class PPOOutput(NamedTuple):
    """What `linear_ppo_loss` returns; only the loss is differentiable. Means over the tokens that
    count."""

    loss: Tensor
    entropy: Tensor
    clipped: Tensor  # the share of tokens whose ratio was clipped, and so have no gradient of it
    kl: Tensor  # of the policy that made the tokens to this one: old log-probability - new


def linear_ppo_loss(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    entropy_coefficient: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> PPOOutput:
    """Clipped policy gradient (arXiv:1707.06347) from hidden states, with an advantage a token.

    With r = exp(log p[id] - old_log_prob), the mean over tokens that count of
    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), less entropy_coefficient times their mean
    entropy. The logits never exist as a whole; they are made anew in the backward.

    Args:
        input: [..., H]. weight: [V, H], of input's dtype. bias: [V] or None.
        ids: [...] int64, the tokens that were sampled, or ignore_index where nothing counts.
        old_log_probs: [...], of the policy that sampled them. advantages: [...]. Neither gets a
            gradient.
        mask: [...], true (or not 0) where a token counts; None: all but ignored ones.
        clip_low, clip_high: how far r may be below and above one; 0 or more.
        temperature, softcap, memory: as in `linear_log_probs`.
        counted_tokens: how many tokens count, if the caller knows, as there.

    Returns:
        PPOOutput, in float32, float64 for float64, on the device. Of no token all are 0.
        Differentiable in input, weight and bias.

    Raises:
        ValueError: shapes that are not those of ids, a negative clip, and as `linear_log_probs`.
    """
    given = {"old_log_probs": old_log_probs, "advantages": advantages, "mask": mask}
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != ids.shape:
            raise ValueError(
                f"liger_jit::linear_ppo_loss: argument '{name}' has shape {list(tensor.shape)}; "
                f"allowed: that of 'ids', {list(ids.shape)}"
            )
    for name, clip in (("clip_low", clip_low), ("clip_high", clip_high)):
        if not clip >= 0:
            raise ValueError(
                f"liger_jit::linear_ppo_loss: argument '{name}' is {clip}; allowed: 0 or more"
            )
    if mask is not None:
        ids = torch.where(mask.ne(0), ids, ignore_index)
    counted = ids != ignore_index
    log_probs, entropies = linear_log_probs(
        input, weight, ids, bias, temperature, softcap, ignore_index, memory, counted_tokens
    )
    count = counted.sum().clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(counted, values, 0).sum() / count

    # What does not count may hold anything, also what a product with 0 does not end.
    old = torch.where(counted, old_log_probs.detach(), 0).to(log_probs.dtype)
    advantages = torch.where(counted, advantages.detach(), 0).to(log_probs.dtype)
    ratios = (log_probs - old).exp()
    gains = ratios * advantages
    limited = ratios.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = -mean(torch.minimum(gains, limited))
    entropy = mean(entropies)
    with torch.no_grad():
        clipped = mean((limited < gains).to(log_probs.dtype))
        kl = mean(old - log_probs)
    if entropy_coefficient:
        loss = loss - entropy_coefficient * entropy
    return PPOOutput(loss, entropy.detach(), clipped, kl)
