"""Which loss function a model has without ours, which covers what its class and its type give.

A model that calls its loss has it looked up in that call: it is the one of now. Who took
`model.loss_function` has the one of then, for good. Both call one object of ours, and nothing tells
when it is taken. What tells that it was taken before is who calls it:

- The very function that it called as the model's of now, which was made of ours: ours is then what
  the model had when it was patched. So it is in the forward of another patched model.
- A model in which something else is in its place: ours is then what it was called as before that.
"""

import functools
import threading
from collections.abc import Callable

import torch
from torch import nn

from ..entered import is_in_others
from ..lookup import is_function
from ..stand_in import LossFunction

NAME = "_loss_function"


class _Thread(threading.local):
    """The losses whose functions of now run."""

    def __init__(self):
        self.running: tuple = ()


here = _Thread()


class FoundLoss:
    """Of one loss head. `original` is the function that the model had when it was patched; `last`
    what ours was called as, or asked about, while it was in its place."""

    def __init__(self, owner: object, model: nn.Module):
        self.owner, self.model = owner, model
        self.original = self.last = getattr(model, "loss_function", None)
        # transformers looks the function up by the model's class and type, unless one was set.
        self.is_looked_up = NAME not in model.__dict__

    def of_call(self) -> Callable:
        """The function that a call of ours stands for."""
        if not self.is_looked_up:
            return self.original
        if any(one is self for one in here.running) or is_in_others(self.owner):
            return self.original
        return self.of_now()

    def of_now(self) -> Callable:
        """What is found now, or was while ours was in its place."""
        there = self.model.__dict__.get(NAME)
        if not self.is_looked_up or there is self.last:
            return self.original
        if self.owner.applied and type(there) is LossFunction and there.loss_head is self.owner:
            found = of_class_and_type(self.model)
            if not torch.compiler.is_compiling():
                self.last = found
            return found
        return self.last

    def call(self, function: Callable, /, *args, **kwargs):
        """Calls one that may have been made of ours."""
        outer = here.running
        try:
            here.running = (self, *outer)
            return function(*args, **kwargs)
        finally:
            here.running = outer


def of_class_and_type(model: nn.Module) -> Callable:
    """What `PreTrainedModel.loss_function` finds if nothing is in the instance."""
    from transformers.modeling_utils import LOSS_MAPPING  # which the property reads

    if hasattr(type(model), NAME):
        return of_class(model)
    kind = getattr(model, "loss_type", None)
    return LOSS_MAPPING[kind if kind in LOSS_MAPPING else "ForCausalLM"]


def of_class(model: nn.Module) -> Callable:
    """Bound as an attribute of the model would be, in a way that torch.compile traces."""
    found = getattr(type(model), NAME)
    return functools.partial(found, model) if is_function(type(model), NAME) else found
