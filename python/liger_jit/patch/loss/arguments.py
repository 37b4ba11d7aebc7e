"""What a model's forward takes: where its labels are, and which options of ours are its own."""

import inspect
import sys
from collections.abc import Callable

import torch
from torch import nn

from ..taken import class_forward
from .call import OPTIONS


class OwnArguments:
    """Of the model's forward that was there when they were read, or of a later one of its class."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.read()

    def read(self) -> None:
        """Of the model's forward, which somebody may have put on the instance."""
        self.take(type(self.model).forward, arguments_of(self.model))

    def take(self, own: Callable, lists: list[list[inspect.Parameter]]) -> None:
        position = position_of_labels(lists)
        self.found = options_not_in(lists), sys.maxsize if position is None else position
        self.own = own  # last: what was found is that of this one

    def of(self, own: Callable | None) -> tuple[frozenset[str], int]:
        """Those of `OPTIONS` that `own`, a forward of the class, has no argument for, and the
        position of its labels; None is the forward that was read.

        torch.compile traces no reading of a signature: there one that is not known has all options
        and no labels by position.
        """
        if own is not None and own is not self.own:
            if torch.compiler.is_compiling():
                return frozenset(), sys.maxsize
            is_of_now = own is type(self.model).forward
            found = parameters(class_forward(self.model)) if is_of_now else parameters(own)[1:]
            self.take(own, [found])
        return self.found


def labels_position(model: nn.Module) -> int | None:
    """Of `labels` among the arguments of the model's forward; None if it takes none.

    A forward that a trainer put on the model may hand on whatever it gets to the class's own.
    """
    return position_of_labels(arguments_of(model))


def options_of_ours(model: nn.Module) -> frozenset[str]:
    """Those of `OPTIONS` that the model's forward has no argument of its own for."""
    return options_not_in(arguments_of(model))


def arguments_of(model: nn.Module) -> list[list[inspect.Parameter]]:
    """Of the model's forward and of its class's."""
    return [parameters(model.forward), parameters(class_forward(model))]


def parameters(function: object) -> list[inspect.Parameter]:
    """None of what does not tell, as functions of torch."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def position_of_labels(lists: list[list[inspect.Parameter]]) -> int | None:
    for arguments in lists:
        names = [one.name for one in arguments]
        if "labels" not in names:
            continue
        position = names.index("labels")
        by_name = arguments[position].kind is inspect.Parameter.KEYWORD_ONLY
        return sys.maxsize if by_name else position
    return None


def options_not_in(lists: list[list[inspect.Parameter]]) -> frozenset[str]:
    return frozenset(OPTIONS) - {one.name for arguments in lists for one in arguments}
