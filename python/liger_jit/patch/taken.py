"""Which forward of its class a forward of ours stands for, where the class has another by now.

A module that is called has its forward looked up in that call: the class's of now. Who took
`module.forward` has the class's of then, for good. Both call one object of ours, and nothing tells
when it is taken. What tells that it was taken before the class got its new forward:

- That forward itself calls it, and not by way of torch's `__call__` or of the name `forward`, which
  look it up.
- Something that was put over it on the instance, and calls it, was called while the class had the
  old one; and it was not called in its place since while the class had another.
- The patch was taken back since.

Else a call is one of now.
"""

import dis
import inspect
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType

import torch
from torch import nn

from .lookup import is_function
from .source.torchs_own import CALL_IMPL_CODE

PACKAGE = __package__
CODES_THAT_LOOK_UP = {
    nn.Module._slow_forward.__code__,
    CALL_IMPL_CODE,
    *(one for one in CALL_IMPL_CODE.co_consts if isinstance(one, CodeType)),  # where hooks are
}


class Taken:
    """Of one forward of ours: what those have who took it. `then` is the class's forward when it
    was put in; `below` what a call under a cover stands for, once there was one (`is_noted`)."""

    def __init__(self, then: Callable):
        self.then = self.below = then
        self.is_noted = self.ended = False

    def covered(self, module: nn.Module) -> None:
        """Noted at a call under a cover. A later cover holds the earlier one, or what that took."""
        if not (self.is_noted or self.ended or torch.compiler.is_compiling()):
            self.below, self.is_noted = type(module).forward, True

    def uncovered(self, own: Callable) -> None:
        """Noted at a call in its place while the class has this forward: who takes it then has that
        one."""
        if self.below is not own and not torch.compiler.is_compiling():
            self.below, self.is_noted = own, False

    def own(self, module: nn.Module) -> Callable:
        """What a call under a cover stands for, or one after the end."""
        is_noted = self.ended or not torch.compiler.is_compiling()
        return self.below if is_noted else type(module).forward


def forward_of_call(own: Callable, before: Callable, module: nn.Module) -> Callable:
    return before if own is before or (here.is_in(module) and not is_looked_up_in(module)) else own


def call_own(own: Callable, before: Callable, module: nn.Module, /, *args, **kwargs):
    """Calls `own`, a forward of the module's class, or from within such a call `before`, which the
    class had when ours was taken."""
    if forward_of_call(own, before, module) is before:
        return call_as_found(before, module, *args, **kwargs)
    outer = here.modules
    try:
        here.modules = (module, *outer)
        return call_as_found(own, module, *args, **kwargs)
    finally:
        here.modules = outer


def call_as_found(own: Callable, module: nn.Module, /, *args, **kwargs):
    """Calls a forward of the module's class as it is found in the module. Not by binding a function
    to it, which torch.compile does not trace in all releases."""
    if is_function(type(module), "forward"):
        return own(module, *args, **kwargs)
    if type(own) is FunctionType and own is not type(module).forward:  # not that of now
        return own(module, *args, **kwargs)
    return class_forward(module)(*args, **kwargs)


def class_forward(module: nn.Module) -> Callable:
    """The forward of its class, as it is found in the module where none is in its `__dict__`."""
    kind = type(module)
    found = inspect.getattr_static(kind, "forward")
    binds = getattr(type(found), "__get__", None)
    return found if binds is None else binds(found, module, kind)


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
    caller = caller_of_ours(sys._getframe(1))
    return caller is not None and caller.f_code in CODES_THAT_LOOK_UP


def is_looked_up_in(module: nn.Module) -> bool:
    """The same within a forward of its class, where others may stand between; or whether who calls
    ours finds it by the name `forward` in that call."""
    if torch.compiler.is_compiling():
        return False
    frame = caller = caller_of_ours(sys._getframe(1))
    while frame is not None:
        if frame.f_code is CALLS_OWN and frame.f_locals["module"] is module:
            break
        if frame.f_code in CODES_THAT_LOOK_UP and frame.f_locals.get("self") is module:
            return True
        frame = frame.f_back
    return caller is not None and calls_forward(caller)


def caller_of_ours(frame: FrameType | None) -> FrameType | None:
    """The first frame from there on that is not of this package."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith(PACKAGE):
        frame = frame.f_back
    return frame


def calls_forward(frame: FrameType) -> bool:
    """Whether the call that it is in is that of an attribute of this name, by the places in its
    source of that call and of what it loads. False where Python does not tell, before 3.11."""
    places = list(getattr(frame.f_code, "co_positions", tuple)())
    if not places:
        return False
    name, begin = None, places[frame.f_lasti // 2]
    for step in dis.get_instructions(frame.f_code):
        loads = step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.offset < frame.f_lasti
        if loads and begins_alike(places[step.offset // 2], begin):
            name = step.argval
    return name == "forward"


def begins_alike(place: tuple, other: tuple) -> bool:
    (line, _, column, _), (of_other, _, column_of_other, _) = place, other
    return line is not None and (line, column) == (of_other, column_of_other)


CALLS_OWN = call_own.__code__
