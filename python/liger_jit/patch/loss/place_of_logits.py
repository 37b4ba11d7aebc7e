"""Outputs of steps without logits, in which what comes after these stays where it was.

A field that is None is no item of an output, so the second item of such a step would be a cache or
hidden states. Here it is None, as in the tuple of a model that returns one.
"""

import functools
from dataclasses import fields, make_dataclass


@functools.cache
def with_place_of_logits(output_class: type) -> type:
    """The output class, with None where its items by number would have logits. What is saved is of
    the output class itself."""
    names = [field.name for field in fields(output_class)]
    if "logits" not in names or not hasattr(output_class, "to_tuple"):
        return output_class
    before = names[: names.index("logits")]

    def to_tuple(self) -> tuple:
        values = output_class.to_tuple(self)
        if "logits" in self or len(values) != len(self):
            return values
        place = sum(name in before for name in self)
        return (*values[:place], None, *values[place:])

    def __reduce__(self) -> tuple:
        return output_class, *output_class.__reduce__(self)[1:]

    own = {"to_tuple": to_tuple, "__reduce__": __reduce__, "__module__": output_class.__module__}
    name = f"{output_class.__name__}WithoutLogits"
    return make_dataclass(name, [], bases=(output_class,), namespace=own)
