"""The gates that experts have, and which of them a module's `_apply_gate` is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..probe import OUTLYING, TINY, Mismatch, random, relative_error, twin_of

# Attributes that hold the bound of gate and up, and the factor in gpt-oss's sigmoid.
LIMITS = ("limit", "swiglu_limit")
ALPHA = "alpha"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
CLAMPED = "clamped"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ExpertGate:
    """act(gate) * up of one tensor, by the names that `functional.experts` has for its options."""

    activation: str
    interleaved: bool
    limit: float | None = None
    alpha: float = 1.702

    @property
    def role(self) -> str:
        return "geglu" if "gelu" in self.activation else "swiglu"

    def __call__(self, gate_up: Tensor) -> Tensor:
        """In plain torch."""
        gate, up = gate_up[..., ::2], gate_up[..., 1::2]
        if not self.interleaved:
            gate, up = gate_up.chunk(2, dim=-1)
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        if self.activation == CLAMPED:
            return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))
        return ACTIVATIONS[self.activation](gate) * up


def candidates(module: nn.Module) -> list[ExpertGate]:
    """With the limits that the module's attributes name."""
    limits = [None, *(getattr(module, name) for name in LIMITS if is_positive(module, name))]
    forms = [(interleaved, limit) for interleaved in (False, True) for limit in limits]
    found = [ExpertGate(name, *form) for form in forms for name in ACTIVATIONS]
    if is_positive(module, ALPHA):
        found += [ExpertGate(CLAMPED, *form, module.alpha) for form in forms]
    return found


def is_positive(module: nn.Module, name: str) -> bool:
    value = getattr(module, name, None)
    return type(value) in (int, float) and value > 0


def gate_of(module: nn.Module) -> ExpertGate:
    """Raises Mismatch if its `_apply_gate` is none of them."""
    generator = torch.Generator().manual_seed(17)
    twin = twin_of(module)
    few, many = random((4, 16), generator), random((64, 16), generator) * 4
    for gate in candidates(module):
        try:
            alike = [
                relative_error(type(module)._apply_gate(twin, x), gate(x)) <= TOLERANCE
                for x in (few, many, many * 50, few * OUTLYING, few * TINY)
            ]
        except Exception as error:
            raise Mismatch(f"its gate failed in the probe: {error}") from error
        if all(alike):
            return gate
    raise Mismatch("no known gate computes what its _apply_gate does")
