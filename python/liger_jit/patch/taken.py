"""Which forward of its class a forward of ours stands for, where the class has another by now.

A module that is called has its forward looked up in that call: the class's of now. Who took
`module.forward` has the class's of then, for good. Both call one object of ours, and nothing tells
when it is taken. What tells that it was taken before the class got its new forward:

- That forward itself calls it, and not by way of torch's `__call__`, which looks it up.
- What was put over it on the instance, and calls it, was called while the class had the old one.
- The patch was taken back since.

Else a call is one of now.
"""

import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType

import torch
from torch import nn

from .source.torchs_own import CALL_IMPL_CODE

PACKAGE = __package__
CODES_THAT_LOOK_UP = {
    nn.Module._slow_forward.__code__,
    CALL_IMPL_CODE,
    *(one for one in CALL_IMPL_CODE.co_consts if isinstance(one, CodeType)),  # where hooks are
}


class Taken:
    """Of one forward of ours: what those have who took it. `then` is the class's forward when it
    was put in."""

    def __init__(self, then: Callable):
        self.then = self.below = then
        self.cover: Callable[[], object] | None = None
        self.ended = False

    def covered(self, module: nn.Module, cover: object) -> None:
        """Noted at a call under `cover`: it took the class's forward of its first call, if not one
        from before."""
        if self.ended or torch.compiler.is_compiling():
            return
        if self.cover is None or self.cover() is not cover:
            self.cover, self.below = reference(cover), type(module).forward

    def own(self, module: nn.Module) -> Callable:
        """What a call under a cover stands for, or one after the end."""
        is_noted = self.ended or not torch.compiler.is_compiling()
        return self.below if is_noted else type(module).forward


def forward_of_call(own: Callable, before: Callable, module: nn.Module) -> Callable:
    return before if own is before or (here.is_in(module) and not is_looked_up()) else own


def call_own(own: Callable, before: Callable, module: nn.Module, /, *args, **kwargs):
    """Calls `own`, a forward of the module's class, or from within such a call `before`, which the
    class had when ours was taken."""
    if forward_of_call(own, before, module) is before:
        return before(module, *args, **kwargs)
    outer = here.modules
    try:
        here.modules = (module, *outer)
        return own(module, *args, **kwargs)
    finally:
        here.modules = outer


def reference(cover: object) -> Callable[[], object]:
    """It may hold what its calls have seen, so it is not kept."""
    try:
        return weakref.ref(cover)
    except TypeError:
        return type(None)


class _Thread(threading.local):
    """The modules whose classes' new forwards run."""

    def __init__(self):
        self.modules: tuple[nn.Module, ...] = ()

    def is_in(self, module: nn.Module) -> bool:
        return any(one is module for one in self.modules)


here = _Thread()


def is_looked_up() -> bool:
    """Whether torch calls ours as what it has found in a module that was called."""
    if torch.compiler.is_compiling():
        return False
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(PACKAGE):
        frame = frame.f_back
    return frame is not None and frame.f_code in CODES_THAT_LOOK_UP
