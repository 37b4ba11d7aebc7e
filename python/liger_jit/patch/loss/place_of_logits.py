"""Outputs of steps without logits, in which what comes after these stays where it was.

A field that is None is no item of an output, so the second item of such a step would be a cache or
hidden states. Here it is None, as in the tuple of a model that returns one.
"""

import copy
import functools
from collections import OrderedDict
from dataclasses import fields, is_dataclass

import torch


def is_model_output(output: dict) -> bool:
    return is_dataclass(output) and isinstance(output, OrderedDict)


def kind_of(output: dict) -> type:
    return OrderedDict if isinstance(output, OrderedDict) else dict


def put(output: dict, name: str, value: object) -> None:
    """By what all such classes inherit: one may note or refuse what is set."""
    if is_model_output(output):
        object.__setattr__(output, name, value)
        if value is None:  # such a field is no item
            OrderedDict.pop(output, name, None)
            return
    kind_of(output).__setitem__(output, name, value)


def like_tuple(output: tuple, values: list) -> tuple:
    made = tuple.__new__(type(output), values)
    if hasattr(output, "__dict__"):
        vars(made).update(vars(output))
    return made


def copy_of(output: dict) -> dict:
    """With its items and attributes, and without its constructor, which may not take them all."""
    return copy.copy(output) if hasattr(output, "__copy__") else twin_of(output)


def twin_of(output: dict) -> dict:
    return filled(new_like(output), dict(output.items()), getattr(output, "__dict__", {}))


def new_like(output: dict) -> dict:
    return kind_of(output).__new__(type(output))


def filled(output: dict, items: dict, attributes: dict) -> dict:
    for name, value in items.items():
        kind_of(output).__setitem__(output, name, value)
    if attributes:
        output.__dict__.update(attributes)
    return output


class Unannounced:
    """First base of classes that the class they are made of hears nothing of."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


def made_of(output_class: type) -> tuple[type, ...]:
    """The bases of a class of ours."""
    return (output_class,) if issubclass(output_class, Unannounced) else (Unannounced, output_class)


@functools.cache
def with_place_of_logits(output_class: type) -> type:
    """The output class, with None where its items by number would have logits. It reads as that
    class, and what is saved is of that class itself."""
    names = [field.name for field in fields(output_class)]
    if "logits" not in names or not hasattr(output_class, "to_tuple"):
        return output_class
    before = names[: names.index("logits")]

    class WithoutLogits(*made_of(output_class)):
        def to_tuple(self) -> tuple:
            """What its class's own makes of an output with logits, and None where they are."""
            if "logits" in self:
                return super().to_tuple()
            logits = torch.empty(0)
            twin = twin_of(self)
            put(twin, "logits", logits)
            twin._put_in_place("logits")
            values = super(WithoutLogits, twin).to_tuple()
            return tuple(None if value is logits else value for value in values)

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "logits" and value is not None and len(self):
                # They are an item of any other output, and so an attribute that is set sets it.
                OrderedDict.__setitem__(self, name, value)
            self._put_in_place(name)

        def __setitem__(self, name: str, value: object) -> None:
            super().__setitem__(name, value)
            self._put_in_place(name)

        def _put_in_place(self, name: str) -> None:
            """Logits that are set later come before what their step had after them."""
            if name == "logits" and name in self and next(reversed(self)) == name:
                for other in [one for one in self if one not in (*before, name)]:
                    self.move_to_end(other)

        def __copy__(self) -> "WithoutLogits":
            return twin_of(self)

        def __deepcopy__(self, memo: dict) -> "WithoutLogits":
            memo[id(self)] = twin = new_like(self)
            return filled(twin, *copy.deepcopy((dict(self.items()), self.__dict__), memo))

        def __reduce__(self) -> tuple:
            return output_class, *super().__reduce__()[1:]

    WithoutLogits.__name__ = f"{output_class.__name__}WithoutLogits"
    WithoutLogits.__qualname__ = output_class.__qualname__
    WithoutLogits.__module__ = output_class.__module__
    return WithoutLogits
