"""Operator calls on meta tensors, which register the kernels that the same calls would need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .library import native


@dataclass(frozen=True)
class MetaCall:
    """One operator call as the patched model makes it, to be replayed on meta tensors.

    `key` holds what makes two calls the same kernel; `run(batch, tokens)` makes the call and its
    backward. A spare one is not part of a step: it is tried, and stands in where a better one
    cannot be used, so its kernels are compiled and not tuned.
    """

    op: str
    key: tuple
    run: Callable[[int, int], None]
    spare: bool = False


def replay_of(calls: list[MetaCall], batch: int, tokens: int) -> Callable[[], None]:
    """A function that makes each distinct one of these calls once, on meta tensors.

    It runs forward and backward, holds no weights and needs no context, so whoever records
    operator calls can learn from it which kernels a training step of that size will ask for.
    """
    distinct: dict[tuple, MetaCall] = {}
    # The product of a linear loss takes longest to compile, so it begins first.
    for call in sorted(calls, key=lambda call: (call.spare, "linear" not in call.op)):
        distinct.setdefault((call.op, call.key), call)

    def replay() -> None:
        for call in distinct.values():
            native()._prepare_tunes(not call.spare)
            call.run(batch, tokens)

    return replay


def meta_replay(specs: Iterable[tuple[str, dict[str, Any]]]) -> Callable[[], None]:
    """A function that calls each (op, arguments) on meta tensors, forward and backward."""
    calls = [(name, _on_meta(arguments)) for name, arguments in specs]

    def replay() -> None:
        for name, arguments in calls:
            outputs = getattr(native(), name)(**arguments)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            wanted = next((output for output in outputs if output.requires_grad), None)
            # A step holds no other output either, and what nobody holds is scaled where it lies.
            del outputs
            if wanted is not None:
                wanted.backward(torch.empty_like(wanted))

    return replay


def _on_meta(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in arguments.items()
    }
