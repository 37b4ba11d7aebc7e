"""What a linear layer gives the tokens that follow, in plain torch, for the tests of its losses."""

import torch
from torch.nn import functional


def logits_of(input, weight, bias=None, temperature=1.0):
    """Rounded once, then as PyTorch's losses take them: in float32, or float64 for float64."""
    return exact(functional.linear(input, weight, bias)) / temperature


def exact(values):
    return values if values.dtype == torch.float64 else values.float()


def chosen_log_probs(logits, ids):
    """log softmax(logits)[id] of each token; ids that are out of range stand for ignored tokens."""
    chosen = ids.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
    return logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
