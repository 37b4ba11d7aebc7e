"""Autocast on a device. Some, as meta, have none, and torch raises if it is asked there."""

import contextlib

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Of a matrix product under autocast; None where it is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
