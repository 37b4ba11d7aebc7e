"""What tests of a layer norm beside a residual sum give it."""

import torch


def tensors(rows, size, dtype, device, shift=0.0):
    return {
        "x": (torch.randn(rows, size, device=device) + shift).to(dtype),
        "residual": (3 * torch.randn(rows, size, device=device)).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
        "bias": (0.3 * torch.randn(size, device=device)).to(dtype),
    }
