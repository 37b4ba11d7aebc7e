"""A loss behind a linear layer as a module."""

from dataclasses import dataclass

from torch import nn

# Makes the constructor of a ChunkedLoss of its fields. Modules are compared and printed as others.
options = dataclass(eq=False, repr=False)


class ChunkedLoss(nn.Module):
    """A module whose options are its class's fields, which `options` makes the constructor's
    arguments, in that order. They stay attributes, and a forward reads what they are then."""

    def __post_init__(self):
        super().__init__()

    def options(self):
        """What they are now, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
