"""Which forwards of patched models this thread is in.

What a call asked for belongs to the call: the frame that runs a model's forward enters it here, and
takes it out however it ends. The place is thread-local and not a context variable because
torch.compile traces the first and not the second; a forward runs to its end in one thread, so
nothing suspends it half-way.
"""

import threading

from .loss_call import LossCall


class Entered:
    """A forward of the model that `owner` is the loss head of; `call` is None for one that has no
    loss to fuse. `outer` is the forward that it runs in."""

    def __init__(self, owner: object, call: LossCall | None, outer: "Entered | None"):
        self.owner, self.call, self.outer = owner, call, outer


class _Thread(threading.local):
    innermost: Entered | None = None


here = _Thread()


def call_of(owner: object) -> LossCall | None:
    """What the innermost forward of that owner in this thread has to fuse."""
    entered = here.innermost
    while entered is not None and entered.owner is not owner:
        entered = entered.outer
    return None if entered is None else entered.call
