"""Patching every model of a family that is built from now on, for callers who patch before loading.

The family's PreTrainedModel class gets a post_init and a from_pretrained of its own. A model is
patched when its weights are there: at the end of from_pretrained, or else at its first forward.
"""

import inspect
import weakref

import torch
from torch import nn

from .apply import patch
from .handle import Handle


class FamilyHandle:
    """A family under patching. `revert` (or `unpatch`) ends it, and unpatches its live models."""

    def __init__(self, base_class: type, flags: dict[str, bool]):
        self.base_class = base_class
        self.flags = flags
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._waiting: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._installed = {}

    @property
    def handles(self) -> list[Handle]:
        """Handles of the models patched so far that still live."""
        return list(self._handles)

    def install(self) -> "FamilyHandle":
        base, family = self.base_class, self
        inherited_init, inherited_load = base.post_init, base.from_pretrained.__func__

        def post_init(model, *args, **kwargs):
            result = inherited_init(model, *args, **kwargs)
            family.wait_for(model)
            return result

        def from_pretrained(cls, *args, **kwargs):
            result = inherited_load(cls, *args, **kwargs)
            # With output_loading_info the model comes with a second value.
            family.patch_now(result[0] if isinstance(result, tuple) else result)
            return result

        self._installed = {"post_init": post_init, "from_pretrained": classmethod(from_pretrained)}
        for name, value in self._installed.items():
            setattr(base, name, value)
        return self

    def wait_for(self, model: nn.Module) -> None:
        """Patches `model` at its first forward, unless something patches it sooner."""
        self._waiting[model] = model.register_forward_pre_hook(
            FirstForward(self), prepend=True, with_kwargs=True
        )
        model.__dict__.setdefault("forward", ForwardOfNow(model))

    def stop_waiting(self, model: nn.Module) -> bool:
        """Takes the first-forward hooks out of the model and its parts; whether it had one."""
        waiting = [module for module in model.modules() if module in self._waiting]
        for module in waiting:
            self._waiting.pop(module).remove()
            if type(module.__dict__.get("forward")) is ForwardOfNow:
                del module.__dict__["forward"]
        return model in waiting

    def patch_now(self, model: nn.Module) -> Handle | None:
        """The model's handle, which it also keeps as `liger_handle`; None if it was not waiting."""
        forward = model.__dict__.get("forward")
        if not self.stop_waiting(model):
            return None
        model.liger_handle = patch(model, **self.flags)
        self._handles.add(model.liger_handle)
        if type(forward) is ForwardOfNow:
            forward.now = model.__dict__.get("forward")
        return model.liger_handle

    def revert(self) -> None:
        """Restores the class and unpatches its models; models that wait are left unpatched."""
        for name in self._installed:
            if self.base_class.__dict__.get(name) is self._installed[name]:
                delattr(self.base_class, name)
        self._installed = {}
        for model in list(self._waiting):
            self.stop_waiting(model)
        for handle in self.handles:
            handle.unpatch()
            handle.model.__dict__.pop("liger_handle", None)

    unpatch = revert


class FirstForward:
    """The pre-hook of a model that waits for its first forward."""

    def __init__(self, family: FamilyHandle | None):
        self.family = family

    def __call__(self, model: nn.Module, args, kwargs) -> None:
        # Probes run the model's code, which a trace must not record: a compiled first step waits.
        if self.family is not None and not torch.compiler.is_compiling():
            self.family.patch_now(model)

    def __reduce__(self):
        # A copy of a waiting model, or one that is saved, waits no longer.
        return FirstForward, (None,)


class ForwardOfNow:
    """The forward of a model that waits: its class's own, or the one that a patch gives it.

    `nn.Module.__call__` looks its forward up before it calls hooks, one of which patches.
    """

    __name__ = "forward"

    def __init__(self, model: nn.Module):
        self.model = model
        self.now = None

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.model).forward.__get__(self.model))

    def __call__(self, *args, **kwargs):
        if self.now is not None:
            return self.now(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)
