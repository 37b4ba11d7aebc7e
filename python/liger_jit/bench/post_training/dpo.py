"""Direct preference optimisation: the first half of the sequences are chosen, the others not."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..peers.eager import selective_log_softmax
from . import hidden_states
from .batch import Batch, joined

BETA = 0.1
IGNORED = -100


def labels_of(batch: Batch) -> Tensor:
    """[B, T - 1]: the token after each, where it is one of the completion."""
    ids = joined(batch)["input_ids"][:, 1:].clone()
    ids[:, : batch["prompt_ids"].shape[1] - 1] = IGNORED
    return ids


def eager(batch: Batch, policy, reference) -> Callable[[], Tensor]:
    inputs, labels = joined(batch), labels_of(batch)
    counted = labels != IGNORED

    def log_probs(model) -> Tensor:
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        each = selective_log_softmax(logits, labels.clamp(min=0))
        return (each * counted).sum(-1)

    def loss() -> Tensor:
        of_policy = log_probs(policy)
        with torch.no_grad():
            of_reference = log_probs(reference)
        chosen, rejected = (of_policy - of_reference).chunk(2)
        return -F.logsigmoid(BETA * (chosen - rejected)).mean()

    return loss


def chunked(losses, batch: Batch, policy, reference) -> Callable[[], Tensor]:
    """With a package of losses as Liger Kernel's `chunked_loss`."""
    inputs, labels = joined(batch), labels_of(batch)
    of_states = losses.LigerFusedLinearDPOLoss(beta=BETA)

    def loss() -> Tensor:
        states = hidden_states.of_all(policy, inputs)
        with torch.no_grad():
            ref_states = hidden_states.of_all(reference, inputs)
        return of_states(
            hidden_states.head_of(policy),
            states,
            labels,
            ref_input=ref_states,
            ref_weight=hidden_states.head_of(reference),
        )[0]

    return loss
