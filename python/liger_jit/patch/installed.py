"""A replacement in its place: the forward of one module, which can be switched off.

What is ours is known by identity. A module's `__dict__` holds the forward and, beside it, an
`Installed` that names the very module it was made for. So what copies a function's attributes, as
wrappers do, does not pass for ours, nor does what copies a module's. A deep copy has its own.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn

from .guard import Guard, is_hooked, is_kept, is_plain, is_usable, parts_of
from .lookup import is_function
from .modes import WATCHED, is_watched
from .own_calls import OwnCalls
from .rule import Proof
from .source.compared import function_of
from .source.definition import decorated, innermost
from .taken import Taken, call_as_found, call_own, is_looked_up

# Of the entry in a patched module's __dict__.
KEY = "_liger_jit"
UNPROVED = "its input is of a dtype, shape or layout that was not proved"


class Installed(OwnCalls):
    """Owned by its module, and shared with the handle. `on` is the switch that the forward reads.
    `was_bound`: the proved forward stood in the module's `__dict__`, so no later one of the class
    counts, and stands there again when this is undone. `ours`: what was put there last: the
    replacement, `bound`, or what stands for the class's new forward.
    """

    def __init__(self, module: nn.Module, proof: Proof, was_bound: bool = False):
        self.module, self.proof, self.was_bound = module, proof, was_bound
        self.bound = self.ours = proof.forward.__get__(module)
        self.taken = Taken(proof.guard.forward)
        self.on = True

    def follow(self, own: Callable) -> None:
        """Puts in what stands for `own`, the class's forward of now, if that is a function. So who
        took what was there has what that stood for."""
        proved = own is self.proof.guard.forward
        follows = not proved and is_function(type(self.module), "forward")
        self.ours = following(own).__get__(self.module) if follows else self.bound
        self.module.__dict__["forward"] = self.ours
        self.taken.uncovered(own)

    def called(self) -> None:
        """Noted at a call of the replacement."""
        if self.module.__dict__.get("forward") is not self.ours:
            self.taken.covered(self.module)

    def __deepcopy__(self, memo: dict) -> "Installed":
        twin = Installed(copy.deepcopy(self.module, memo), self.proof, self.was_bound)
        twin.bound, twin.ours = copy.deepcopy((self.bound, self.ours), memo)
        twin.taken = copy.copy(self.taken)
        twin.on = self.on
        return twin

    def __reduce__(self):
        # A module is saved with the forward of its class.
        return type(None), ()


def installed_in(module: nn.Module) -> Installed | None:
    """The module's own, on or off."""
    installed = module.__dict__.get(KEY)
    return None if installed is None or installed.module is not module else installed


def stood_back(module: nn.Module, reason: str) -> None:
    """Noted of a patched module that ran a part of its own."""
    if (installed := installed_in(module)) is not None:
        installed.stand_back(reason)


def standing(module: Callable) -> Proof | None:
    """The proof of its replacement, if calling the module is calling that and nothing else. What
    stands where a module stood may be any callable."""
    if not isinstance(module, nn.Module):
        return None
    installed = installed_in(module)
    if installed is None or not installed.on or not is_ours(module, installed):
        return None
    if is_watched() or is_hooked(module) or installed.proof.guard.broken(module) is not None:
        return None
    return installed.proof


def is_ours(module: nn.Module, installed: Installed) -> bool:
    """Whether the forward in the module's __dict__ is the one that was installed."""
    forward = module.__dict__.get("forward")
    return forward is installed.ours or is_bound(forward, installed.proof.forward, module)


def is_bound(forward: object, function: FunctionType, module: nn.Module) -> bool:
    if not isinstance(forward, MethodType) or forward.__self__ is not module:
        return False  # another's, borrowed, computes with that one's weights
    return forward.__func__ is function


def replaced_by(module: nn.Module) -> str | None:
    """Why `module` cannot be patched now: None, "already patched", or who replaced its forward."""
    if is_free(module):
        return None
    installed = installed_in(module)
    if installed is not None and is_ours(module, installed):
        return "already patched"
    return "its forward is already replaced on the instance (hooks of accelerate, or another patch)"


class Installation:
    """Puts one replacement in, and takes it out: one of a handle's changes."""

    def __init__(self, module: nn.Module, proof: Proof):
        self.module, self.proof = module, proof

    @property
    def installed(self) -> Installed | None:
        return installed_in(self.module)

    @property
    def counted(self) -> OwnCalls | None:
        return self.installed

    def apply(self) -> None:
        """Switches it on where something was put over it, and leaves other forwards alone."""
        found = self.installed
        if is_free(self.module):
            install(self.module, self.proof)
        elif found is not None and found.proof is self.proof:
            found.on, found.taken.ended = True, False

    def reason_out(self) -> str | None:
        """Why the last `apply` left it out; None if it did not."""
        found = self.installed
        is_in = found is not None and found.proof is self.proof and found.on
        return None if is_in else replaced_by(self.module)

    def undo(self) -> None:
        """The module is as it was; what was put over the forward goes on, over the module's own."""
        found = self.installed
        if found is None or found.proof is not self.proof:
            return
        found.on = False
        found.called()
        found.taken.ended = True
        if is_ours(self.module, found):
            del self.module.__dict__["forward"]
            if found.was_bound:
                self.module.__dict__["forward"] = self.proof.guard.forward.__get__(self.module)
        if "forward" not in self.module.__dict__ or is_class_forward(self.module):
            del self.module.__dict__[KEY]

    def __deepcopy__(self, memo: dict) -> "Installation":
        return Installation(copy.deepcopy(self.module, memo), self.proof)


def install(module: nn.Module, proof: Proof) -> None:
    was_bound = is_class_forward(module)
    installed = Installed(module, proof, was_bound)
    module.__dict__["forward"] = installed.bound
    module.__dict__[KEY] = installed


def is_free(module: nn.Module) -> bool:
    """Whether its class's forward runs: nobody put another one in, or what is left of a patch that
    was taken back is switched off."""
    if "forward" not in module.__dict__ or is_class_forward(module):
        return True
    installed = installed_in(module)
    return installed is not None and not installed.on and is_ours(module, installed)


def is_class_forward(module: nn.Module) -> bool:
    """Whether the forward in its __dict__ is its class's own, bound, as unpickling writes it."""
    forward = module.__dict__.get("forward")
    function = getattr(forward, "__func__", None)
    if function is None or getattr(forward, "__self__", None) is not module:
        return False
    return function is type(module).forward


def guarded(
    run: Callable[..., Tensor],
    guard: Guard,
    takes: Callable[..., bool] = lambda module, *tensors: True,
    count: int = 1,
) -> FunctionType:
    """`run(module, *tensors)` as a forward, for calls with `count` tensors that it `takes`, and
    nothing else. All must be of a kind that the operators take and keep, the first of a dtype as
    well.

    All other calls, and those after the switch is off or the guard is broken, are the class's own.
    """
    names = list(inspect.signature(guard.forward).parameters)[1 : 1 + count]
    more = "it was called with more than one input" if count == 1 else "its inputs are others"

    def forward(self, *inputs, **named):
        held = self.__dict__
        installed = held.get(KEY)
        if installed is None or installed.module is not self or not installed.on:
            return own_forward(forward, guard, self, *inputs, **named)
        if held.get("forward") is not installed.bound:
            installed.called()
        given = inputs
        if named and named.keys() == set(names[len(inputs) :]):
            given = (*inputs, *(named[name] for name in names[len(inputs) :]))
        if is_watched():  # first, as a mode sees what is asked of tensors as well
            reason = WATCHED
        elif len(given) != count or (named and given is inputs):
            reason = more
        elif not is_usable(given[0]) or not all(is_plain(x) and is_kept(x) for x in given[1:]):
            reason = "its input is of a kind that no operator takes"
        else:
            reason = guard.broken(self)
            if reason is None and not takes(self, *given):
                reason = UNPROVED
        if reason is not None:
            installed.stand_back(reason)
            return own_forward(forward, guard, self, *inputs, **named)
        return run(self, *given)

    return like_own(forward, guard.forward)


def own_forward(ours: FunctionType, guard: Guard, module: nn.Module, /, *inputs, **named):
    """The forward of its class that a call of ours stands for."""
    installed, forward = installed_in(module), module.__dict__.get("forward")
    own = guard.forward
    if installed is not None and installed.was_bound:
        pass
    elif is_bound(forward, ours, module):
        own = type(module).forward
        is_on = installed is not None and installed.on
        if is_on and own is not guard.forward and is_looked_up():
            installed.follow(own)
            return call_as_found(own, module, *inputs, **named)
    elif installed is not None and forward is not installed.ours:
        own = installed.taken.own(module)
    return call_own(own, guard.forward, module, *inputs, **named)


def following(own: Callable) -> FunctionType:
    """In place of a replacement, while the class has this forward and not the proved one."""

    def forward(self, *inputs, **named):
        now, installed = type(self).forward, installed_in(self)
        there = self.__dict__.get("forward")
        if not is_bound(there, forward, self):
            if installed is None or is_ours(self, installed):
                return own(self, *inputs, **named)
            installed.called()
            return call_own(installed.taken.own(self), own, self, *inputs, **named)
        if installed is None or not installed.on:
            return call_as_found(now, self, *inputs, **named)
        if now is not own and not torch.compiler.is_compiling():
            installed.follow(now)
        if now is installed.proof.guard.forward:
            return installed.bound(*inputs, **named)
        installed.stand_back(installed.proof.guard.broken(self))
        return call_as_found(now, self, *inputs, **named)

    return like_own(forward, own)


def like_own(forward: FunctionType, own: Callable) -> FunctionType:
    """With the signature and attributes of the class's own, but for what torch's compiler notes of
    that; a pickled module looks it up by this name."""
    update_wrapper(forward, own).__name__ = "forward"
    del forward.__wrapped__  # who takes wrappers off finds what is under `own`
    if hasattr(own, "__wrapped__"):
        forward.__wrapped__ = own.__wrapped__
    else:
        forward.__signature__ = inspect.signature(own)
    for name in [one for one in vars(forward) if one.startswith("_torchdynamo")]:
        del forward.__dict__[name]
    return forward


def switched(rewritten: FunctionType, guard: Guard) -> FunctionType:
    """A rewritten forward, which takes what the class's own does, while the guard holds."""
    again: dict[Callable, tuple[FunctionType, Guard]] = {}

    def forward(self, *inputs, **named):
        held = self.__dict__
        installed = held.get(KEY)
        if installed is None or installed.module is not self or not installed.on:
            return own_forward(forward, guard, self, *inputs, **named)
        is_in_place = held.get("forward") is installed.bound
        if not is_in_place:
            installed.called()
        run, reason = rewritten, guard.broken(self)
        is_of_now = is_in_place or installed.taken.own(self) is type(self).forward
        is_of_now = is_of_now and not installed.was_bound
        if reason is not None and is_of_now and type(self).forward is not guard.forward:
            # What is compiled is not traced through this, and finds what a call before it made.
            if type(self).forward not in again and not torch.compiler.is_compiling():
                again[type(self).forward] = decorated_again(type(self).forward, rewritten, guard)
            run, now = again.get(type(self).forward, (rewritten, guard))
            reason = now.broken(self)
        if reason is not None:
            installed.stand_back(reason)
            return own_forward(forward, guard, self, *inputs, **named)
        return run(self, *inputs, **named)

    return like_own(forward, guard.forward)


def decorated_again(
    now: Callable, rewritten: FunctionType, guard: Guard
) -> tuple[FunctionType, Guard]:
    """The rewritten forward in the decorators of `now`, and its guard, if that is the guarded one
    with more decorators around it; else both as they are.

    A module that is sharded gets a class of its own, whose bases may decorate what it inherits.
    """
    around, inner = [], now
    while inner is not guard.forward and inner is not None:
        around.append(inner)
        inner = getattr(inner, "__wrapped__", None)
    found = decorated(now, innermost(rewritten)) if inner is not None else None
    if found is None:
        return rewritten, guard
    codes, functions = parts_of(map(function_of, around))
    more = {"codes": guard.codes + codes, "functions": guard.functions + functions}
    return found, replace(guard, forward=now, **more)
