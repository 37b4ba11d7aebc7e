"""Preference optimisation of pairs without a reference model, from hidden states and a head."""

from typing import NamedTuple

from torch import Tensor

from .. import ops
from .preference import DPOOutput, last_options


class ORPOOutput(NamedTuple):
    """What `fused_linear_orpo` returns: as `DPOOutput`, and two means over pairs."""

    loss: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor
    chosen_logits_mean: Tensor
    rejected_logits_mean: Tensor
    nll_loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    log_odds_ratio: Tensor  # log s(o)
    log_odds_chosen: Tensor  # o


def fused_linear_cpo(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    average_log_prob: bool = False,
    compute_nll_loss: bool = True,
    alpha: float = 1.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> DPOOutput:
    """Contrastive preference optimisation (arXiv:2401.08417), from hidden states.

    With c and r the log-probabilities of a pair's chosen and rejected sequence, d = beta (c - r), s
    the logistic function and e the label smoothing, the mean over pairs of
    -(1 - e) log s(d) - e log s(-d), plus alpha times the mean negative log-probability of the
    chosen tokens, if asked for. Arguments, returns and errors are those of `fused_linear_dpo`;
    label_smoothing is 0 to 1.
    """
    return DPOOutput(
        *ops.fused_linear_cpo(
            input,
            weight,
            ids,
            bias,
            beta,
            label_smoothing,
            average_log_prob,
            compute_nll_loss,
            alpha,
            *last_options(
                "fused_linear_cpo",
                temperature,
                softcap,
                ignore_index,
                memory,
                False,
                counted_tokens,
            ),
        )[:8]
    )


def fused_linear_simpo(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None = None,
    beta: float = 0.1,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    compute_nll_loss: bool = False,
    alpha: float = 1.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> DPOOutput:
    """Simple preference optimisation (arXiv:2405.14734), from hidden states.

    `fused_linear_cpo` with means over a sequence's tokens as log-probabilities and
    d = beta (c - r) - gamma.
    """
    return DPOOutput(
        *ops.fused_linear_simpo(
            input,
            weight,
            ids,
            bias,
            beta,
            gamma,
            label_smoothing,
            compute_nll_loss,
            alpha,
            *last_options(
                "fused_linear_simpo",
                temperature,
                softcap,
                ignore_index,
                memory,
                False,
                counted_tokens,
            ),
        )[:8]
    )


def fused_linear_orpo(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None = None,
    nll_ids: Tensor | None = None,
    beta: float = 0.1,
    compute_nll_loss: bool = True,
    alpha: float = 1.0,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> ORPOOutput:
    """Odds ratio preference optimisation (arXiv:2403.07691), from hidden states.

    With c and r the mean log-probabilities of a pair's chosen and rejected tokens, and
    o = (c - r) - (log(1 - exp c) - log(1 - exp r)), the mean over pairs of -beta log s(o), plus
    alpha times the mean negative log-probability of the chosen tokens, if asked for. A c or r that
    rounds to 0 counts as the largest number below, so that o is finite.

    Args:
        nll_ids: [2 P, T] int64, what the chosen tokens are to predict in the last term, if other
            than ids; the rejected half is not read, and no product is made again.
        counted_tokens: as in `fused_linear_dpo`, of tokens that ids or nll_ids counts.
        All others as in `fused_linear_dpo`.

    Returns:
        ORPOOutput, as DPOOutput.

    Raises:
        ValueError: as `fused_linear_dpo`; nll_ids of another shape than ids.
    """
    return ORPOOutput(
        *ops.fused_linear_orpo(
            input,
            weight,
            ids,
            bias,
            nll_ids,
            beta,
            compute_nll_loss,
            alpha,
            *last_options(
                "fused_linear_orpo", 1.0, None, ignore_index, memory, False, counted_tokens
            ),
        )[:10]
    )
