"""Hearing of each model that is built or loaded from a PreTrainedModel class.

While somebody listens, the class has a post_init and a from_pretrained of ours around its own.
"""

import functools
from typing import Protocol

from torch import nn


class Listener(Protocol):
    """`built` is called for the parts of a model as well, these first."""

    def built(self, model: nn.Module) -> None: ...

    def loaded(self, model: nn.Module) -> None: ...


class ClassHooks:
    """The two methods of one class, in place from the first listener to the last.

    Where something is put over them, they stay below it and call the class's own. What the class
    inherits is looked up at each call, as it is without us.
    """

    def __init__(self, base: type):
        self.base = base
        self.listeners: list[Listener] = []
        listeners = self.listeners
        names = ("post_init", "from_pretrained")
        self.before = {name: vars(base)[name] for name in names if name in vars(base)}
        own_init, own_load = (self.before.get(name) for name in names)

        @functools.wraps(base.post_init)
        def post_init(model, *args, **kwargs):
            init = own_init.__get__(model) if own_init else super(base, model).post_init
            result = init(*args, **kwargs)
            for listener in tuple(listeners):
                listener.built(model)
            return result

        @functools.wraps(base.from_pretrained.__func__)
        def from_pretrained(cls, *args, **kwargs):
            load = own_load.__get__(None, cls) if own_load else super(base, cls).from_pretrained
            result = load(*args, **kwargs)
            # With output_loading_info the model comes with a second value.
            model = result[0] if isinstance(result, tuple) else result
            for listener in tuple(listeners):
                listener.loaded(model)
            return result

        self.ours = {"post_init": post_init, "from_pretrained": classmethod(from_pretrained)}
        for name, value in self.ours.items():
            setattr(base, name, value)

    def remove(self) -> None:
        for name, value in self.ours.items():
            if vars(self.base).get(name) is not value:
                continue
            if name in self.before:
                setattr(self.base, name, self.before[name])
            else:
                delattr(self.base, name)


_hooks: dict[type, ClassHooks] = {}


def listen(base: type, listener: Listener) -> None:
    if base not in _hooks:
        _hooks[base] = ClassHooks(base)
    _hooks[base].listeners.append(listener)


def stop_listening(base: type, listener: Listener) -> None:
    """A listener that is not there is no error."""
    hooks = _hooks.get(base)
    if hooks is None or listener not in hooks.listeners:
        return
    hooks.listeners.remove(listener)
    if not hooks.listeners:
        _hooks.pop(base).remove()
