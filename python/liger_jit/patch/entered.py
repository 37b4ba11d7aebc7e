"""Which forwards of patched models this thread is in.

What a call asked for belongs to the call: the frame that runs a model's forward enters it here, and
takes it out however it ends. The place is thread-local and not a context variable because
torch.compile traces the first and not the second; a forward runs to its end in one thread, so
nothing suspends it half-way.
"""

import threading

import torch

from .loss.call import LossCall


class Entered:
    """A forward of the model that `owner` is the loss head of; `call` is None for one that has no
    loss to fuse. `outer` is the forward that it runs in."""

    def __init__(self, owner: object, call: LossCall | None, outer: "Entered | None"):
        self.owner, self.call, self.outer = owner, call, outer


class _Thread(threading.local):
    def __init__(self):
        # Not a default of the class, which torch.compile would take for a constant.
        self.innermost: Entered | None = None


here = _Thread()
# Of forwards that are being traced. A module that is compiled by itself sees nothing here of the
# forward that calls it, which runs as Python: its graph must not hold what one call asked for.
traced = _Thread()


def place() -> _Thread:
    return traced if torch.compiler.is_compiling() else here


def entered_of(owner: object) -> Entered | None:
    """The innermost forward of that owner in this thread."""
    entered = place().innermost
    while entered is not None and entered.owner is not owner:
        entered = entered.outer
    return entered


def call_of(owner: object) -> LossCall | None:
    """What that forward has to fuse."""
    entered = entered_of(owner)
    return None if entered is None else entered.call


def is_in_others(owner: object) -> bool:
    """Whether this thread is in forwards of patched models, and in none of that owner's."""
    return place().innermost is not None and entered_of(owner) is None
