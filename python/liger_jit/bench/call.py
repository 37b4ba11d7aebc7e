"""A provider's function as something to be called again and again, and how exact it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cases import Case, tensors_of

# Errors are those of a row, and gradients summed over this many rows show how sums round. Float64
# logits of all rows would not fit.
ROWS_OF_ERROR = 1024


class Call:
    """A function on inputs of its own, since some providers write over theirs."""

    def __init__(self, function: Callable, values: dict[str, Any], names: list[str]):
        self.function = function
        self.values = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        self.wanted = [self.values[name].requires_grad_() for name in names]
        self.grad_output: list[Tensor] = []

    def forward(self) -> None:
        with torch.no_grad():
            self.function(**self.values)

    def forward_of_both(self) -> tuple[Tensor, ...]:
        """Outputs that have a graph."""
        return tensors_of(self.function(**self.values))

    def both(self) -> tuple[Tensor, ...]:
        """Outputs and gradients, where there are any."""
        outputs = self.forward_of_both()
        if not self.wanted:
            return tuple(outputs)
        differentiable = [output for output in outputs if output.requires_grad]
        if not self.grad_output:
            torch.manual_seed(1)
            self.grad_output = [_grad_output(output) for output in differentiable]
        return (*outputs, *torch.autograd.grad(differentiable, self.wanted, self.grad_output))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _grad_output(output: Tensor) -> Tensor:
    """What arrives from above: 1 at a loss, as in training; else numbers that every dtype has."""
    if output.dim() == 0:
        return torch.ones_like(output)
    return torch.randn_like(output, dtype=torch.bfloat16).to(output.dtype)


def _relative(difference: Tensor, exact: Tensor) -> float:
    """Of what is exactly 0, as a metric may be, the difference itself."""
    size = exact.norm().item()
    return difference.norm().item() / (size if size != 0 else 1.0)


class Reference:
    """Eager in float64, on at most ROWS_OF_ERROR rows."""

    def __init__(self, eager: Callable, case: Case, device: str):
        most = max(1, ROWS_OF_ERROR // case.sizes.get("sequences", 1))
        self.case = case.with_rows(min(most, case.rows))
        self.device = device
        self.names = case.differentiable()
        values = self.case.values(device)
        wide = {k: v.double() if _is_float(v) else v for k, v in values.items()}
        self.exact = Call(self.case.told(eager, values), wide, self.names).both()

    def error(self, function: Callable) -> float:
        """Largest over outputs and gradients of |result - exact| / |exact|, in Euclid's norm."""
        values = self.case.values(self.device)
        results = Call(self.case.told(function, values), values, self.names).both()
        errors = [
            _relative(result.double() - exact, exact)
            for result, exact in zip(results, map(torch.Tensor.double, self.exact), strict=True)
        ]
        return math.nan if any(map(math.isnan, errors)) else max(errors)
