"""Patching every model of a family that is built from now on, for callers who patch before loading.

A model is patched when its weights are there: at the end of from_pretrained, or else at its first
forward.
"""

import weakref
from collections.abc import Callable

import torch
from torch import nn

from .class_hooks import listen, stop_listening
from .handle import Handle, keep
from .saved import LeftOut, save_as_unpatched
from .stand_in import StandIn


class FamilyHandle:
    """A family under patching. `revert` (or `unpatch`) ends it, and unpatches its live models.

    bases: classes of the family; covers(model): whether a model built from one belongs to it.
    patch: patches one model.
    """

    def __init__(
        self,
        bases: list[type],
        covers: Callable[[nn.Module], bool],
        patch: Callable[[nn.Module], Handle],
    ):
        self.bases, self.covers, self.patch = bases, covers, patch
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._waiting: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @property
    def handles(self) -> list[Handle]:
        """Handles of the models patched so far that still live."""
        return list(self._handles)

    def install(self) -> "FamilyHandle":
        for base in self.bases:
            listen(base, self)
        return self

    def end(self) -> None:
        """Models built from now on are left alone; those built before stay in the family."""
        for base in self.bases:
            stop_listening(base, self)

    def built(self, model: nn.Module) -> None:
        if self.covers(model):
            self.wait_for(model)

    def loaded(self, model: nn.Module) -> None:
        self.patch_now(model)

    def wait_for(self, model: nn.Module) -> None:
        """Patches `model` at its first forward, unless something patches it sooner."""
        if model in self._waiting:
            return
        self._waiting[model] = model.register_forward_pre_hook(
            FirstForward(self), prepend=True, with_kwargs=True
        )
        model.__dict__.setdefault("forward", ForwardOfNow(model))
        save_as_unpatched(type(model))

    def stop_waiting(self, model: nn.Module) -> bool:
        """Takes the first-forward hooks out of the model and its parts; whether it had one."""
        waiting = [module for module in model.modules() if module in self._waiting]
        for module in waiting:
            hook = self._waiting.pop(module, None)
            if hook is not None:
                hook.remove()
            if type(module.__dict__.get("forward")) is ForwardOfNow:
                del module.__dict__["forward"]
        return model in waiting

    def patch_now(self, model: nn.Module) -> Handle | None:
        """The model's handle, which it also keeps as `liger_handle`; None if it was not waiting."""
        forward = model.__dict__.get("forward")
        if not self.stop_waiting(model):
            return None
        handle = self.patch(model)
        keep(handle, model)
        self._handles.add(handle)
        if type(forward) is ForwardOfNow:
            forward.now = model.forward
        return handle

    def revert(self) -> None:
        """Restores the classes and unpatches their models; those that wait are left unpatched."""
        self.end()
        for model in list(self._waiting):
            self.stop_waiting(model)
        for handle in self.handles:
            handle.unpatch()
            handle.model.__dict__.pop("liger_handle", None)

    unpatch = revert


class FirstForward(LeftOut):
    """The pre-hook of a model that waits for its first forward."""

    def __init__(self, family: FamilyHandle | None):
        self.family = family

    def __call__(self, model: nn.Module, args, kwargs) -> None:
        # Probes run the model's code, which a trace must not record: a compiled first step waits.
        if self.family is not None and not torch.compiler.is_compiling():
            self.family.patch_now(model)

    def __reduce__(self):
        # A copy of a waiting model waits no longer.
        return FirstForward, (None,)


class ForwardOfNow(StandIn):
    """The forward of a model that waits: its class's own, or the one that a patch gives it.

    `nn.Module.__call__` looks its forward up before it calls hooks, one of which patches.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.now = None

    def run(self, *args, **kwargs):
        return self.original(*args, **kwargs) if self.now is None else self.now(*args, **kwargs)


def stop_waiting(model: nn.Module) -> None:
    """For a model that is patched now: no family does it again, nor a part of it."""
    for family in families_awaited_in(model):
        family.stop_waiting(model)


def families_awaited_in(model: nn.Module) -> set[FamilyHandle]:
    """Those that patch the model, or a part of it, at its first forward."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    found = {hook.family for hook in hooks if isinstance(hook, FirstForward)}
    return found - {None}
