"""What lazy logits that alias stand for, and what it has to do with those it was made from."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..modes import unwatched
from ..recomputed import outside_of_checkpoint
from .late_logits import Place
from .lazy_source import Follow, Source

# What was done to a tensor: (function, its arguments after the tensor, whether gradients were on).
Operation = tuple[Callable, tuple, bool]


def done(operations: tuple[Operation, ...], tensor: Tensor) -> Tensor:
    for function, arguments, with_grad in operations:
        with torch.set_grad_enabled(with_grad):
            tensor = function(tensor, *arguments)
    return tensor


class Block:
    """What lazy tensors that alias stand for: one tensor that is not computed yet, or `given`.

    place: that tensor's, on the way to a loss that was made without it.
    origins: the blocks whose tensors this one is made from, the nearest first, with what is done to
    them. A hook on one of those has the gradient of this one too, so a block that is computed while
    one of its origins is not comes after the place of that, and is computed with it otherwise.

    Its lazy tensors own it; it knows them by weak references, which go before they become plain, as
    torch changes no tensor that has some.
    """

    def __init__(self, source: Source, origins: "tuple[Origin, ...]" = ()):
        self.tensor: Tensor | None = None
        self.given: Tensor | None = None
        self.place: Place | None = None
        self.lazies: list[weakref.ref] = []
        self.origins = origins
        if source.weight is None and not source.steps:
            # What is made of them comes after them, so a hook on them has the gradient of all.
            self.given = source.states
            source = replace(source, states=Follow.apply(source.states, source.states))
        self.source = source
        # Of a copy that transformers' own loss makes nobody else knows.
        self.is_seen = source.weight is not None and not source.call.in_own_loss
        source.call.blocks.append(weakref.ref(self))

    def compute(self) -> None:
        """Computes the tensor if it is not yet, and makes its lazy tensors plain ones."""
        off = torch._C.DisableTorchFunctionSubclass()
        with off, outside_of_checkpoint(), unwatched(), self.source.as_at_the_head():
            if self.tensor is None:
                # What these hold may become a lazy tensor of this block.
                self.tensor, self.given, self.place = self._made(), None, None
            living = [lazy for reference in self.lazies if (lazy := reference()) is not None]
            self.lazies.clear()
            for lazy in living:
                lazy._become_plain()
            for copy in self._copies():
                copy.compute()

    def _made(self) -> Tensor:
        if self.given is not None:
            self.source.check()
            return self.given
        origin = next(self._living_origins(), None)
        if origin is not None and origin[0].tensor is not None:
            return done(origin[1], origin[0].tensor)
        if self.place is None and (origin is None or not self.source.has_gradients):
            return self.source.compute()
        return self.placed().filled()

    def _copies(self) -> "list[Block]":
        """Those that are made of this one, and have no place of their own yet."""
        others = [block for ref in self.source.call.blocks if (block := ref()) is not None]
        return [
            other
            for other in others
            if other.tensor is None
            and other.place is None
            and any(block is self for block, _ in other._living_origins())
        ]

    def _living_origins(self) -> "Iterator[tuple[Block, tuple[Operation, ...]]]":
        for reference, operations in self.origins:
            if (block := reference()) is not None:
                yield block, operations

    def placed(self) -> Place:
        if self.place is None:
            before, operations = next(self._living_origins(), (None, ()))
            after = None if before is None else (before.placed(), lambda x: done(operations, x))
            self.place = Place(self.source, after)
        return self.place

    def place_before_a_loss(self) -> Place | None:
        """The place on the way to a loss of this block, if somebody may ask for its gradient."""
        seen = self if self.is_seen else next((block for block, _ in self._living_origins()), None)
        return None if seen is None or not self.source.has_gradients else seen.placed()

    def origins_of_a_copy(self, operations: tuple[Operation, ...]) -> "tuple[Origin, ...]":
        """Of a block that these operations make of this one."""
        further = [(reference, (*before, *operations)) for reference, before in self.origins]
        return ((weakref.ref(self), operations), *further) if self.is_seen else tuple(further)


Origin = tuple[weakref.ref, tuple[Operation, ...]]
