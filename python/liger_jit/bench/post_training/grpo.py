"""Group relative policy optimisation: the update on completions that other policies have scored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..peers import eager as formulas
from . import hidden_states
from .batch import Batch, joined

BETA = 0.04


def eager(batch: Batch, policy) -> Callable[[], Tensor]:
    ids = batch["completion_ids"]

    def loss() -> Tensor:
        count = ids.shape[1]
        logits = policy(**joined(batch), use_cache=False, logits_to_keep=count + 1).logits
        log_probs = formulas.selective_log_softmax(logits[:, :-1], ids)
        return formulas.policy_loss(
            log_probs,
            batch["completion_mask"],
            batch["advantages"],
            batch["ref_per_token_logps"],
            batch["old_per_token_logps"],
            beta=BETA,
        )[0]

    return loss


def chunked(losses, batch: Batch, policy) -> Callable[[], Tensor]:
    """With a package of losses as Liger Kernel's `chunked_loss`."""
    of_states = partial(losses.LigerFusedLinearGRPOLoss(beta=BETA), advantages=batch["advantages"])

    def loss() -> Tensor:
        return of_states(
            hidden_states.of_completions(policy, batch),
            hidden_states.head_of(policy),
            batch["completion_ids"],
            batch["completion_mask"],
            ref_per_token_logps=batch["ref_per_token_logps"],
            old_per_token_logps=batch["old_per_token_logps"],
        )[0]

    return loss
