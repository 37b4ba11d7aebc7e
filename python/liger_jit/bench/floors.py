"""The least time that an op can take: its bytes over the copy bandwidth, or its matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..library import native
from .cases import IGNORE_INDEX, Case, ours, tensors_of
from .clock import Clock


def floors_ms(case: Case, clock: Clock, bytes_per_ms: float) -> tuple[float, float]:
    """(forward, forward + backward)."""
    if linear_layers(case.values("meta")):
        return _products_ms(case, clock)
    forward, both = _bytes(case)
    return forward / bytes_per_ms, both / bytes_per_ms


def _bytes(case: Case) -> tuple[int, int]:
    """Counted on meta tensors: each input read once, each output written once."""
    values = case.values("meta")
    outputs = tensors_of(ours(case.op["name"])(**values))
    forward = _read(values, outputs) + _size(outputs)
    backward = case.op["backward"]
    if not backward:  # a loss makes its gradient as it reads
        return forward, forward + _size(values[name] for name in case.differentiable())
    read = case.values("meta", backward)
    written = tensors_of(getattr(native(), backward)(**read))
    return forward, forward + _read(read, ()) + _size(written)


def _read(values: dict, outputs) -> int:
    """All inputs; but of a table that indices pick from, the rows that the outputs are made of."""
    if "indices" not in values:
        return _size(values.values())
    return _size(value for name, value in values.items() if name != "weight") + _size(outputs)


def _size(values) -> int:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def linear_layers(values: dict) -> dict[str, str]:
    """{input: weight} of those that are multiplied."""
    pairs = {name: name.replace("input", "weight") for name in values if name.endswith("input")}
    return {name: weight for name, weight in pairs.items() if weight in values}


def _products_ms(case: Case, clock: Clock) -> tuple[float, float]:
    """Of each linear layer in the op: the logits, and the gradients of its input and its weight.

    One after another, as an op has to make them: a GPU that rests between them runs faster.
    """
    values = case.values(clock.device)
    wanted = case.differentiable()
    forward, backward = [], []
    for name, of_weight in linear_layers(values).items():
        x, weight = values[name].flatten(0, -2), values[of_weight]
        if "target" in values:  # rows that count nothing need no work
            x = x[values["target"] != IGNORE_INDEX]
        forward.append(_product(x, weight.T))
        logits = forward[-1]()
        if name in wanted:
            backward.append(_product(logits, weight))
        if of_weight in wanted:
            backward.append(_product(logits.T, x))
    return _ms_of_all(clock, forward), _ms_of_all(clock, forward + backward)


def _ms_of_all(clock: Clock, products: list[Callable[[], Tensor]]) -> float:
    return clock.device_ms(lambda: [product() for product in products])


def _product(left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    result = left @ right
    return lambda: torch.mm(left, right, out=result)
