"""A batch of post-training, with the names that TRL's trainers have for its tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..peers.eager import selective_log_softmax
from .settings import Setting

Batch = dict[str, Tensor]


def generated(setting: Setting, vocabulary: int, device: str) -> Batch:
    """Prompts and the completions of them, none of which is padded."""
    torch.manual_seed(0)
    batch = {}
    for name, length in (("prompt", setting.prompt), ("completion", setting.completion)):
        ids = torch.randint(vocabulary, (setting.sequences, length), device=device)
        batch |= {f"{name}_ids": ids, f"{name}_mask": torch.ones_like(ids)}
    return batch


def joined(batch: Batch) -> Batch:
    """What a model is called with: prompt and completion of each sequence."""
    names = {"input_ids": "ids", "attention_mask": "mask"}
    return {
        argument: torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1)
        for argument, part in names.items()
    }


def scored(batch: Batch, policy: torch.nn.Module) -> Batch:
    """With the log-probabilities of two other policies, which differ a little from this one, and
    the advantage of each sequence."""
    count = len(batch["completion_ids"])
    # One by one: their logits together are larger than the step.
    sequences = [{name: one[i : i + 1] for name, one in batch.items()} for i in range(count)]
    with torch.no_grad():
        now = torch.cat([_log_probs(policy, sequence) for sequence in sequences])
    torch.manual_seed(1)
    return batch | {
        "old_per_token_logps": now + 0.1 * torch.randn_like(now),
        "ref_per_token_logps": now + 0.1 * torch.randn_like(now),
        "advantages": torch.randn(count, device=now.device),
        "num_items_in_batch": batch["completion_mask"].sum(),
    }


def _log_probs(policy: torch.nn.Module, batch: Batch) -> Tensor:
    ids = batch["completion_ids"]
    logits = policy(**joined(batch), use_cache=False, logits_to_keep=ids.shape[1] + 1).logits
    return selective_log_softmax(logits[:, :-1], ids)
