"""A model is saved without what a patch put beside its forwards, so it loads where liger_jit is not
installed."""

import copy
import copyreg

from torch import nn

PROTOCOL = 2  # what it gives is saved by all
HOOKS, WITH_NAMED = "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"


class LeftOut:
    """Base of values in a model's `__dict__`, and of its hooks, that are not saved with it."""

    is_left_out = True


def save_as_unpatched(kind: type) -> None:
    """From now on models of this class: a value in a model's `__dict__` cannot take itself out of
    what is saved. Others are saved as ever."""
    copyreg.dispatch_table.setdefault(kind, reduced)


def reduced(model: nn.Module) -> tuple | str:
    found = model.__reduce_ex__(PROTOCOL)
    if isinstance(found, str) or len(found) < 3 or type(found[2]) is not dict:
        return found
    function, arguments, state, *rest = found
    return function, arguments, State(state), *rest


class State(dict):
    """What a model's `__dict__` has: all of it for a copy, and what is not ours for a file."""

    def __deepcopy__(self, memo: dict) -> dict:
        return copy.deepcopy(dict(self), memo)

    def __reduce__(self):
        return dict, (), None, None, iter(as_unpatched(self).items())


def as_unpatched(state: dict) -> dict:
    kept = {name: value for name, value in state.items() if not is_left_out(value)}
    ours = {number for number, hook in state.get(HOOKS, {}).items() if is_left_out(hook)}
    if ours:
        for name in (HOOKS, WITH_NAMED):
            kept[name] = type(state[name])(
                (number, value) for number, value in state[name].items() if number not in ours
            )
    return kept


def is_left_out(value: object) -> bool:
    return isinstance(value, LeftOut) and value.is_left_out
