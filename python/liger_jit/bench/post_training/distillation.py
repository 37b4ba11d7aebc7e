"""Distillation of completions: the Jensen-Shannon divergence from a frozen teacher's tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import hidden_states
from .batch import Batch, joined

BETA = 0.5


def eager(batch: Batch, student, teacher) -> Callable[[], Tensor]:
    count = batch["completion_ids"].shape[1]
    inputs = joined(batch)

    def log_probs(model) -> Tensor:
        logits = model(**inputs, use_cache=False, logits_to_keep=count + 1).logits[:, :-1]
        return logits.float().log_softmax(-1).flatten(0, 1)

    def loss() -> Tensor:
        log_q = log_probs(student)
        with torch.no_grad():
            log_p = log_probs(teacher)
        log_m = torch.logaddexp(log_q + math.log(1 - BETA), log_p + math.log(BETA))

        def kl(log_a: Tensor) -> Tensor:
            return F.kl_div(log_m, log_a, reduction="batchmean", log_target=True)

        return BETA * kl(log_p) + (1 - BETA) * kl(log_q)

    return loss


def chunked(losses, batch: Batch, student, teacher) -> Callable[[], Tensor]:
    """With a package of losses as Liger Kernel's `chunked_loss`."""
    of_states = losses.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA
    )

    def loss() -> Tensor:
        states = hidden_states.of_completions(student, batch)
        with torch.no_grad():
            teacher_states = hidden_states.of_completions(teacher, batch)
        return of_states(
            states.flatten(0, 1),
            hidden_states.head_of(student),
            teacher_states.flatten(0, 1),
            hidden_states.head_of(teacher),
            batch["completion_ids"].flatten(),
        )

    return loss
