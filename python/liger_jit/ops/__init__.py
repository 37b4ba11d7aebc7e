"""The native operators, bound once, and the forms that their schemas want arguments in.

`fused_linear_scaled_cross_entropy` and `grpo_loss` are what is imported from `liger_kernel.ops`.
`torch.ops.liger_jit.NAME.default` is looked up here and not at each call: that lookup costs 0.3 us.
"""

import importlib

import torch
from torch import Tensor

from ..library import native, ops

# The registry is the list of ops, so a new one needs no line here.
globals().update(
    {op["name"]: getattr(native(), op["name"]).default for op in ops() if not op["internal"]}
)


def __getattr__(name: str):
    # Late: it is made of functions that are made of what is here.
    if name == "LigerFusedLinearScaledCrossEntropyFunction":
        module = importlib.import_module(".fused_linear_scaled_cross_entropy", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


MEMORY = {"auto": 0, "min": -1}

_CHOICES = {
    (op["name"], one["name"]): {choice: number for number, choice in enumerate(one["choices"])}
    for op in ops()
    for one in op["inputs"]
    if one["choices"]
}


def refuse(op: str, argument: str, value, allowed) -> ValueError:
    """The error for an option's value that the schema has no number for."""
    listed = ", ".join(repr(choice) for choice in allowed)
    return ValueError(f"liger_jit::{op}: argument '{argument}' is {value!r}; allowed: {listed}")


def defaults(op: str, *options: str) -> tuple:
    """What the schema has for these where they are left out, which costs less than to pass them."""
    values = {a.name: a.default_value for a in globals()[op]._schema.arguments}
    return tuple(values[option] for option in options)


def choices(op: str, option: str) -> dict[str, int]:
    """The names that the op's declaration gives the values of an option, and their numbers."""
    return _CHOICES[op, option]


def choice(op: str, argument: str, value, allowed: dict):
    """What the schema has for the value of an option."""
    number = allowed.get(value)
    if number is None:
        raise refuse(op, argument, value, allowed)
    return number


def _need_tensor(op: str, argument: str, value) -> None:
    # As torch says it for what goes straight to an operator.
    if not isinstance(value, Tensor):
        found = f"{type(value).__name__} {value!r:.60}"
        raise TypeError(f"liger_jit::{op}: argument '{argument}' is {found}; allowed: a Tensor")


def flat(op: str, argument: str, value: Tensor, dims: int) -> Tensor:
    """The tensor with its leading dimensions joined, down to that number of them."""
    _need_tensor(op, argument, value)
    return value if value.dim() <= dims else value.flatten(0, -dims)


def heads_second(op: str, argument: str, value: Tensor) -> Tensor:
    """[B, T, H, D] as [B, H, T, D], or back."""
    _need_tensor(op, argument, value)
    return value.transpose(1, 2)


def without_heads(op: str, argument: str, table: Tensor, head_dim: int) -> Tensor:
    """cos or sin as [1 or B, T, R]."""
    _need_tensor(op, argument, table)
    dims = table.dim()
    if dims == 3:
        return table
    if dims == 2:
        return table.unsqueeze(0)
    if dims == 4:
        if table.shape[head_dim] != 1:
            raise ValueError(
                f"liger_jit::{op}: argument '{argument}' has shape {tuple(table.shape)}; "
                f"allowed: with four dimensions, 1 in dimension {head_dim}, that of the heads"
            )
        return table.squeeze(head_dim)
    return table


def as_num_items(op: str, num_items, reduction: str, like: Tensor) -> Tensor:
    """num_items as a float32 scalar on the device, made without waiting for that device."""
    if reduction != "mean":
        raise ValueError(
            f"liger_jit::{op}: argument 'num_items' is given with reduction={reduction!r}; "
            "allowed: with 'mean', whose denominator it replaces"
        )
    if isinstance(num_items, Tensor):
        return num_items.to(like.device, torch.float32, non_blocking=True).reshape(())
    return torch.full((), num_items, dtype=torch.float32, device=like.device)


def counted(tokens: int | None) -> int:
    """How many tokens count, as a linear loss takes it."""
    return -1 if tokens is None else tokens


def class_weights(weight: Tensor | None, like: Tensor) -> Tensor | None:
    """Class weights in the dtype that losses are computed in."""
    if not isinstance(weight, Tensor):
        return weight
    return weight.to(torch.float64 if like.dtype == torch.float64 else torch.float32)
