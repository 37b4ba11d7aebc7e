"""Group relative policy optimisation and its kin in plain torch.

GRPO: arXiv:2402.03300. DAPO: 2503.14476. Dr. GRPO: 2503.20783. GSPO (ratios of sequences):
2507.18071. CISPO: 2506.13585. SAPO: 2511.20347. LUSPO: 2602.05261. VESPO: 2602.10693. Two-sided
clip: 2505.07291. The estimator of the KL divergence is k3 of
http://joschu.net/blog/kl-approx.html; with the ratio, that of DeepSeek-V3.2.
"""

import math

import torch
from log_prob_reference import chosen_log_probs, exact, logits_of

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
CLIPPED = ["grpo", "bnpo", "dr_grpo", "dapo", "luspo"]  # PPO's min(ratio, clipped ratio)


def by_sign(positive, yes, no, like):
    return torch.where(positive, like.new_tensor(yes), like.new_tensor(no))


def gamma_weight(log_ratio, mask, advantages, importance_ratio, options):
    """VESPO's phi(w) = w^k exp(lambda (1 - w)) of the ratio w of a whole sequence: [B, 1].

    A corrected token that the mask leaves out counts nothing, as TRL gives it a ratio of one.
    """
    least = math.log(1e-8)
    log_w = (log_ratio.clamp(-20, 20) * mask).sum(-1, keepdim=True)
    if importance_ratio is not None:
        correction = importance_ratio.log().clamp(least, 20)
        if correction.shape == mask.shape:
            correction = correction.where(mask != 0, 0.0)
        log_w = log_w + correction.sum(-1, keepdim=True)
    log_w = log_w.clamp(least, 20)
    good = advantages >= 0
    k = by_sign(good, options["vespo_k_pos"], options["vespo_k_neg"], log_w)
    rate = by_sign(good, options["vespo_lambda_pos"], options["vespo_lambda_neg"], log_w)
    rate = rate.clamp(min=1e-4)
    return (rate + k * log_w - rate * log_w.exp()).exp().nan_to_num(torch.nan, 0.0, 0.0)


def policy_terms(log_probs, mask, advantages, ref=None, old=None, importance_ratio=None, **options):
    """(loss of each token, its KL or None, whether its ratio was clipped), each [B, T]."""
    kind = options["loss_type"]
    held = log_probs.detach()
    log_ratio = log_probs - (held if old is None else old)
    log_weight = log_ratio
    if options["importance_sampling_level"] == "sequence":
        length = mask.sum(-1, keepdim=True).clamp(min=1)
        log_weight = (log_ratio * mask).sum(-1, keepdim=True) / length
    ratio = log_weight.exp()
    low, high = 1 - options["epsilon_low"], 1 + options["epsilon_high"]
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    if kind == "cispo":
        high = options["epsilon_high"]
        loss = -ratio.clamp(max=high).detach() * advantages * log_probs
        clipped = (ratio > high) & (advantages > 0)
    elif kind == "sapo":
        pos, neg = options["sapo_temperature_pos"], options["sapo_temperature_neg"]
        temperature = by_sign(advantages > 0, pos, neg, ratio)
        loss = -(temperature * (ratio - 1)).sigmoid() * 4 / temperature * advantages
        clipped = torch.zeros_like(clipped)
    elif kind == "vespo":
        phi = gamma_weight(log_ratio.detach(), mask, advantages, importance_ratio, options)
        loss = -phi * advantages * log_probs
        clipped = torch.zeros_like(clipped)
    else:
        bounded = ratio if options["delta"] is None else ratio.clamp(max=options["delta"])
        loss = -torch.min(bounded * advantages, ratio.clamp(low, high) * advantages)
    if importance_ratio is not None and kind != "vespo":
        loss = loss * importance_ratio
    kl = None
    if options["beta"] != 0:
        behind = (held if ref is None else ref) - log_probs
        kl = behind.exp() - behind - 1
        if options["use_bias_correction_kl"]:
            kl = kl * ratio
        loss = loss + options["beta"] * kl
    return loss, kl, clipped.expand_as(log_probs)


def reduced(loss, mask, kind, max_completion_length=None, num_items=None):
    batch, length = mask.shape
    counted = mask.sum()
    if kind in ("grpo", "sapo"):
        return ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / batch
    if kind == "bnpo":
        return (loss * mask).sum() / counted.clamp(min=1)
    if kind == "dr_grpo":
        return (loss * mask).sum() / (batch * max_completion_length)
    if kind == "luspo":
        return (loss * mask.sum(-1, keepdim=True)).sum() / loss.numel()
    items = counted if num_items is None else torch.as_tensor(num_items).to(counted).reshape(())
    return (loss * mask).sum() / items.clamp(min=1)


DEFAULTS = {
    "beta": 0.04,
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "use_bias_correction_kl": False,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}


def policy_reference(
    log_probs,
    mask,
    advantages,
    ref_log_probs=None,
    old_log_probs=None,
    importance_ratio=None,
    max_completion_length=None,
    num_items=None,
    **options,
):
    """(loss, KL unless beta is 0, share of clipped tokens), of log-probabilities [B, T]."""
    options = DEFAULTS | options
    mask, advantages = mask.to(log_probs.dtype), exact(advantages).unsqueeze(-1)
    others = [
        None if one is None else exact(one)
        for one in (ref_log_probs, old_log_probs, importance_ratio)
    ]
    if others[2] is not None and others[2].dim() == 1:
        others[2] = others[2].unsqueeze(-1)
    loss, kl, clipped = policy_terms(log_probs, mask, advantages, *others, **options)
    loss = reduced(loss, mask, options["loss_type"], max_completion_length, num_items)
    counted = mask.sum().clamp(min=1)
    kls = () if kl is None else ((kl * mask).sum().detach() / counted,)
    return loss, *kls, (clipped * mask).sum() / counted


def grpo_reference(
    input,
    weight,
    ids,
    mask,
    advantages,
    bias=None,
    temperature=1.0,
    ref_input=None,
    ref_weight=None,
    ref_bias=None,
    ref_log_probs=None,
    **others,
):
    """`policy_reference` of input [B, T, H] @ weight.T + bias."""
    if ref_input is not None and ref_log_probs is None:
        ref_logits = logits_of(ref_input, ref_weight, ref_bias, temperature)
        ref_log_probs = chosen_log_probs(ref_logits, ids).detach()
    log_probs = chosen_log_probs(logits_of(input, weight, bias, temperature), ids)
    return policy_reference(log_probs, mask, advantages, ref_log_probs=ref_log_probs, **others)
