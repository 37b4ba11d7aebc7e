"""Heads and tables of angles for tests of rotary embeddings."""

from unittest.mock import patch

import torch


def angles_of(position, width, base=1e4):
    """[..., width / 2] float32, of positions [...]."""
    frequency = base ** (-torch.arange(0, width, 2, device=position.device) / width)
    return position.float().unsqueeze(-1) * frequency


def heads(batch, q_heads, k_heads, tokens, size, dtype, device):
    return {
        "q": torch.randn(batch, q_heads, tokens, size, device=device).to(dtype),
        "k": torch.randn(batch, k_heads, tokens, size, device=device).to(dtype),
    }


def as_tables(angles, dtype):
    return {"cos": angles.cos().to(dtype), "sin": angles.sin().to(dtype)}


def different_batches(batch, tokens, device):
    """Positions [batch, tokens], as of packed sequences."""
    start = torch.arange(batch, device=device).mul(1000).unsqueeze(1)
    return start + torch.arange(tokens, device=device)


def widened(function):
    """A function of transformers in the arithmetic of its tensors, if that is float64: its casts to
    float32 are none then."""

    def run(*args):
        if args[0].dtype != torch.float64:
            return function(*args)
        with patch.object(torch.Tensor, "float", lambda tensor: tensor):
            return function(*args)

    return run
