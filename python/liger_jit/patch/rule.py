"""What a rule of the patcher is, and what it answers about one module.

A rule names no model family. It says which modules look as if they played its role, and proves or
refuses one of them by running that module's own forward: first beside the formula in plain torch on
the CPU, then beside the operator where the module lives. Modules of one group share the answer.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import FunctionType
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ..meta_calls import MetaCall
from .guard import Guard

SHARDED_AWAY = "its weight is sharded away: patch before the model is sharded"


@dataclass(frozen=True, eq=False)
class Proof:
    """A replacement that was shown equal to the original. Nothing of it changes.

    Each rule has a type of its own, with what other rules may know of the replacement. forward:
    what a module gets; it takes the module first, and takes the module's own forward where the
    guard is broken. run: the same without asking, for probes. missed: the role of a larger fusion
    that this module looks fit for, and why it has the lesser.
    """

    role: str
    forward: FunctionType
    guard: Guard
    run: Callable
    meta: MetaCall | None = None
    missed: tuple[str, str] | None = None

    @property
    def otherwise(self) -> "Proof | None":
        """A lesser proof, for a device where the operators of this one fail."""
        return None


@dataclass(frozen=True)
class Refusal:
    """Why a module keeps its own forward."""

    reason: str


# What a rule shows: a `Proof`, or what only other rules ask for.
P = TypeVar("P")


@dataclass(frozen=True)
class Rule(Generic[P]):
    """What modules may become, and how one is recognised and proved.

    `roles` are those of `patch`'s table of flags. `prove` calls no operator. `confirm` calls them
    on the device of the module's weights, and takes the proof back where they differ.
    """

    name: str
    roles: tuple[str, ...]
    match: Callable[[nn.Module], bool]
    group: Callable[[nn.Module], Hashable]
    prove: Callable[[nn.Module], P | Refusal]
    confirm: Callable[[nn.Module, P], P | Refusal]
    # Modules whose work the replacement does itself, though they are replaced as well.
    absorbed: Callable[[nn.Module, P], list[nn.Module]] = lambda module, proof: []


# What another rule answers about a module that is a part of something larger, or the same one.
Parts = Callable[[Rule[P], nn.Module], P | Refusal]


@dataclass(frozen=True)
class CompoundRule(Rule[P]):
    """A rule for what has parts that other rules know. It is handed what these answer, to `prove`
    what they proved and to `confirm` what they confirmed, and asks for nothing twice."""

    prove: Callable[[nn.Module, Parts], P | Refusal]
    confirm: Callable[[nn.Module, P, Parts], P | Refusal]


def own_class_forward(module: nn.Module) -> FunctionType:
    return type(module).forward


def taken_away(module: nn.Module) -> str | None:
    """Why `module` cannot be looked at now: None, or that its weight is elsewhere."""
    if isinstance(module.__dict__.get("weight"), Tensor):
        return (
            "its weight is a plain tensor, no parameter (if FullyShardedDataParallel made it one: "
            "patch before it)"
        )
    weight = module._parameters.get("weight")
    if weight is None or (weight.numel() > 0 and not hasattr(weight, "_fsdp_flattened")):
        return None
    return SHARDED_AWAY


def group_of(module: nn.Module) -> Hashable:
    """What the forward of a leaf or an MLP can depend on, without the values of its weights."""
    scalars = tuple(
        (name, value)
        for name, value in sorted(module.__dict__.items())
        if isinstance(value, (int, float, str, bool, FunctionType, torch.dtype, type(None)))
        and name not in ("training", "_is_hf_initialized")
    )
    tensors = tuple(
        (name, None if p is None else (tuple(p.shape), p.dtype, p.device.type, type(p)))
        for name, p in module.named_parameters(recurse=True)
    )
    children = tuple(
        (name, type(child), repr(child) if not any(True for _ in child.parameters()) else "")
        for name, child in module.named_children()
    )
    settings = id(module.__dict__.get("config"))
    return (type(module), scalars, tensors, children, settings)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 gathers and frees the weights of this very module around its forward.

    It gives the module a class of its own then. Asked by name: its package takes long to import.
    """
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
