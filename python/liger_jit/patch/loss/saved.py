"""A patched model is pickled without the loss function that the unpatched one does not hold."""

import copy
import copyreg

from torch import nn

from ..stand_in import LossFunction
from .found_loss import NAME

PROTOCOL = 2  # what it gives is saved by all


def save_as_unpatched(kind: type) -> None:
    """From now on models of this class: a value in a model's `__dict__` cannot take itself out of
    what is saved. Others are saved as ever."""
    copyreg.dispatch_table.setdefault(kind, reduced)


def reduced(model: nn.Module) -> tuple | str:
    found = model.__reduce_ex__(PROTOCOL)
    if isinstance(found, str) or len(found) < 3 or type(found[2]) is not dict:
        return found
    function, arguments, state, *rest = found
    loss = state.get(NAME)
    if type(loss) is LossFunction and loss.loss_head.found_loss.is_looked_up:
        state = State(state)
    return function, arguments, state, *rest


class State(dict):
    """What a model's `__dict__` has: all of it for a copy, all but that loss where it is saved."""

    def __deepcopy__(self, memo: dict) -> dict:
        return copy.deepcopy(dict(self), memo)

    def __reduce__(self):
        return dict, (), None, None, ((name, self[name]) for name in self if name != NAME)
