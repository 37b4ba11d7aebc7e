"""Whether the loss function of a traced model gets the very logits that the head made.

For `torch.compile` alone: all of this runs while a trace is made, and leaves nothing in the graph.
A trace holds each tensor as a fake one, which counts the writes into it as a real one does.
"""

import weakref

import torch
from torch import Tensor
from torch._dynamo.comptime import comptime

from ..autocasting import autocast_dtype

# What the head returns, and what that was made from.
NAMES = ("logits", "states", "weight", "bias")


class _Trace:
    """Of the trace that is being made; torch makes one at a time."""

    made: dict[str, tuple[weakref.ref, tuple]] | None = None
    node: object = None  # of the logits; a hook on their gradient gives them another
    with_grad = False
    autocast: torch.dtype | None = None
    untouched = False


def made(logits: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Remembers what the head returns."""
    comptime(_remember)


def is_untouched(logits: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are what the head returned in this very trace and what it had, nothing was
    written to them since or detached, gradients and autocast are as they were, and nothing used the
    logits or waits for their gradient."""
    comptime(_compare)
    return _answer()


def _fakes(context) -> dict[str, Tensor]:
    found = {name: context.get_local(name) for name in NAMES}
    return {
        name: one.as_fake() for name, one in found.items() if one.python_type() is not type(None)
    }


def _state(fake: Tensor) -> tuple:
    return fake._version, fake.requires_grad, fake.grad_fn


def _remember(context) -> None:
    fakes = _fakes(context)
    _Trace.made = {name: (weakref.ref(fake), _state(fake)) for name, fake in fakes.items()}
    _Trace.node = context.get_local("logits").as_proxy().node
    _Trace.with_grad = torch.is_grad_enabled()
    _Trace.autocast = autocast_dtype(fakes["states"].device)


def _compare(context) -> None:
    before, _Trace.made = _Trace.made, None
    made_by, _Trace.node = _Trace.node, None
    fakes, node = _fakes(context), context.get_local("logits").as_proxy().node
    _Trace.untouched = (
        before is not None
        and before.keys() == fakes.keys()
        and all(
            before[name][0]() is fake and before[name][1] == _state(fake)
            for name, fake in fakes.items()
        )
        and _Trace.with_grad == torch.is_grad_enabled()
        and _Trace.autocast == autocast_dtype(fakes["states"].device)
        and node is made_by
        and not node.users
    )


@torch._dynamo.assume_constant_result
def _answer() -> bool:
    answer, _Trace.untouched = _Trace.untouched, False
    return answer
