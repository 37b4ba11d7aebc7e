"""The hidden states that the tokens of a batch are told from."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch, joined


def of_all(model: torch.nn.Module, inputs: Batch) -> Tensor:
    """[B, T - 1, H]: the last token's tell of none."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    backbone = model.base_model
    return backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]


def of_completions(model: torch.nn.Module, batch: Batch) -> Tensor:
    """[B, tokens of a completion, H]."""
    return of_all(model, joined(batch))[:, -batch["completion_ids"].shape[1] :]


def head_of(model: torch.nn.Module) -> Tensor:
    return model.get_output_embeddings().weight
