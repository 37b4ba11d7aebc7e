"""Preference optimisation of a language model's head, whose logits never exist as a whole."""

from typing import NamedTuple

from torch import Tensor

from .. import ops


class DPOOutput(NamedTuple):
    """What `fused_linear_dpo` returns; only the loss is differentiable. P: pairs."""

    loss: Tensor
    chosen_logps: Tensor  # [P], and so the other three
    rejected_logps: Tensor
    chosen_logits_mean: Tensor  # of input @ weight.T + bias over all tokens, ignored ones too
    rejected_logits_mean: Tensor
    nll_loss: Tensor  # 0 where it is not asked for
    chosen_rewards: Tensor
    rejected_rewards: Tensor


_LOSSES = ops.choices("fused_linear_dpo", "loss_type")


def fused_linear_dpo(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None = None,
    ref_input: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    discopop_tau: float = 0.05,
    average_log_prob: bool = False,
    compute_nll_loss: bool = False,
    alpha: float = 1.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    exact: bool = False,
    counted_tokens: int | None = None,
) -> DPOOutput:
    """Direct preference optimisation (arXiv:2305.18290) and its kin, from hidden states.

    With c and r the log-ratios of a pair's chosen and rejected sequence to the reference model,
    x = beta c, y = beta r, d = x - y, s the logistic function and e the label smoothing, the mean
    over pairs of

        sigmoid    -(1 - e) log s(d) - e log s(-d)
        hinge      max(0, 1 - d)
        ipo        (c / |c| - r / |r| - 1 / (2 beta))^2, |c| and |r| the numbers of tokens
        exo_pair   s(d) (log s(d) - log(1 - e)) + s(-d) (log s(-d) - log e)
        nca_pair   -log s(x) - (log s(-x) + log s(-y)) / 2
        robust     (-(1 - e) log s(d) + e log s(-d)) / (1 - 2 e)
        bco_pair   -log s(x) - log s(-y)
        sppo_hard  (c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2
        apo_zero   1 - s(x) + s(y)
        apo_down   s(x) + 1 - s(d)
        discopop   -(1 - m) log s(d) + m exp(-d) with m = s(d / tau)

    plus alpha times the mean negative log-probability of the chosen tokens, if asked for.

    Args:
        input: [2 P, T, H], the chosen sequence of pair i in row i, the rejected one in row P + i.
        weight: [V, H], of input's dtype. bias: [V] or None.
        ids: [2 P, T] int64, what each token is to predict, or ignore_index where nothing counts.
        ref_input, ref_weight, ref_bias: the same of the reference model, without requires_grad.
            ref_log_probs: or, [2 P] in float32, log-probabilities of its sequences, means with
            average_log_prob. Without either, log-ratios are log-probabilities.
        average_log_prob: a sequence's log-probability is its tokens' mean, not their sum. A
            sequence whose ids are all ignored has 0.
        temperature, softcap, memory: as in `linear_log_probs`; gradients are made in the forward,
            so with pairs that fit into a chunk there are three products, and one for a reference
            model.
        exact: as in `fused_linear_cross_entropy`.
        counted_tokens: how many ids are not ignore_index, as there. The reference model's product
            is then made for those tokens only, and so are the policy's, one more, where they are so
            few that this saves products.

    Returns:
        DPOOutput, in float32, float64 for float64, on the device. Differentiable in input, weight
        and bias; the gradient of one that does not require it is not computed.

    Raises:
        ValueError: a loss_type or memory that is none of these, shapes, dtypes or devices that do
            not fit, numbers out of range. An id out of range: as `selective_log_softmax`.
    """
    kind = ops.choice("fused_linear_dpo", "loss_type", loss_type, _LOSSES)
    outputs = ops.fused_linear_dpo(
        input,
        weight,
        ids,
        bias,
        ref_input,
        ref_weight,
        ref_bias,
        ref_log_probs,
        kind,
        beta,
        label_smoothing,
        discopop_tau,
        average_log_prob,
        compute_nll_loss,
        alpha,
        *last_options(
            "fused_linear_dpo", temperature, softcap, ignore_index, memory, exact, counted_tokens
        ),
    )
    return DPOOutput(*outputs[:8])


def last_options(op, temperature, softcap, ignore_index, memory, exact, counted_tokens):
    """Of a loss of sequences, as its operator takes them."""
    least = ops.choice(op, "memory", memory, ops.MEMORY)
    cap = 0.0 if softcap is None else softcap
    return temperature, cap, ignore_index, 0, least, exact, ops.counted(counted_tokens)
