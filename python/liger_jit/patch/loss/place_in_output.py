"""Outputs that keep the place of a field which a step did without.

A field that is None is no item of an output, so what comes after it would move up: the second item
of a training step would be no logits, and not None, but a cache.
"""

import functools
from dataclasses import fields, make_dataclass


@functools.cache
def with_place_of(name: str, output_class: type) -> type:
    """The output class whose items by number have None where that field would stand, as a model
    gives it that returns tuples. What is saved is of the output class."""

    def to_tuple(self) -> tuple:
        values = list(output_class.to_tuple(self))
        if name not in self.keys():
            names = [field.name for field in fields(output_class)]
            before = names[: names.index(name)]
            values.insert(sum(one in before for one in self.keys()), None)
        return tuple(values)

    def __reduce__(self) -> tuple:
        return output_class, *output_class.__reduce__(self)[1:]

    own = {"to_tuple": to_tuple, "__reduce__": __reduce__}
    if not hasattr(output_class, "to_tuple"):
        return output_class
    title = f"{output_class.__name__}Without{name.capitalize()}"
    return make_dataclass(title, [], bases=(output_class,), namespace=own)
