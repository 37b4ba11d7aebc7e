"""Experts whose weights are stacked: seen, so that the report names them, and left alone.

Their gated MLPs run as products of groups of tokens, which no operator here does yet.
"""

from torch import nn

from ..rule import Refusal, Rule

NO_RULE = Refusal("no rule yet for experts whose weights are stacked")


def is_experts(module: nn.Module) -> bool:
    """At least two kinds of matrices, one of each kind for each of several experts."""
    kinds = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
    numbers = {kind.shape[0] for kind in kinds}
    return len(kinds) > 1 and len(numbers) == 1 and numbers != {1}


EXPERTS = Rule(
    "experts",
    ("swiglu", "geglu"),
    is_experts,
    group=type,
    prove=lambda module: NO_RULE,
    confirm=lambda module, proof: proof,
)
