"""Whether the loss function of a traced model gets the very logits that the head made.

For `torch.compile` alone: all of this runs while a trace is made, and leaves nothing in the graph.
A trace holds each tensor as a fake one, which counts the writes into it as a real one does.
"""

import weakref

import torch
from torch import Tensor
from torch._dynamo.comptime import comptime


class _Trace:
    """Of the trace that is being made; torch makes one at a time."""

    made: tuple[weakref.ref, int] | None = None
    untouched = False


def made(logits: Tensor) -> None:
    """Remembers what the head returns."""
    comptime(_remember)


def is_untouched(logits: Tensor) -> bool:
    """Whether this is what the head returned in this very trace, and nothing was written to it."""
    comptime(_compare)
    return _answer()


def _remember(context) -> None:
    fake = context.get_local("logits").as_fake()
    _Trace.made = (weakref.ref(fake), fake._version)


def _compare(context) -> None:
    fake, before = context.get_local("logits").as_fake(), _Trace.made
    _Trace.untouched = before is not None and before[0]() is fake and before[1] == fake._version
    _Trace.made = None


@torch._dynamo.assume_constant_result
def _answer() -> bool:
    answer, _Trace.untouched = _Trace.untouched, False
    return answer
