"""The least time that an op can take: its bytes over the copy bandwidth, or its matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from ..library import native
from .cases import IGNORE_INDEX, Case, ours, tensors_of
from .clock import Clock


def floors_ms(case: Case, clock: Clock, bytes_per_ms: float) -> tuple[float, float]:
    """(forward, forward + backward)."""
    if case.op["composite"]:
        return _products_ms(case, clock)
    forward, both = _bytes(case)
    return forward / bytes_per_ms, both / bytes_per_ms


def _bytes(case: Case) -> tuple[int, int]:
    """Counted on meta tensors: each input read once, each output written once."""
    values = case.values("meta")
    forward = _size(values.values()) + _size(tensors_of(ours(case.op["name"])(**values)))
    backward = case.op["backward"]
    if not backward:  # a loss makes its gradient as it reads
        return forward, forward + _size(values[name] for name in case.differentiable())
    read = case.values("meta", backward)
    written = tensors_of(getattr(native(), backward)(**read))
    return forward, forward + _size(read.values()) + _size(written)


def _size(values) -> int:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _products_ms(case: Case, clock: Clock) -> tuple[float, float]:
    """Of each linear layer in the op: the logits, and the gradients of its input and its weight."""
    values = case.values(clock.device)
    wanted = case.differentiable()
    forward = both = 0.0
    for name in (name for name in values if name.endswith("input")):
        x, weight = values[name], values[name.replace("input", "weight")]
        if "target" in values:  # rows that count nothing need no work
            x = x[values["target"] != IGNORE_INDEX]
        logits = x @ weight.T
        product = _product_ms(clock, x, weight.T)
        forward += product
        both += product
        if name in wanted:
            both += _product_ms(clock, logits, weight)
        if name.replace("input", "weight") in wanted:
            both += _product_ms(clock, logits.T, x)
    return forward, both


def _product_ms(clock: Clock, left: Tensor, right: Tensor) -> float:
    result = left @ right
    return clock.device_ms(lambda: torch.mm(left, right, out=result))
