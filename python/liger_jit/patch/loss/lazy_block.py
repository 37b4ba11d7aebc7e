"""What lazy logits that alias stand for, and what it has to do with those it was made from."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..modes import unwatched
from .late_logits import Place
from .lazy_source import Follow, Source

# Held while lazy tensors are read or become plain, as several threads may have one of them. No
# backward runs meanwhile, whose threads may want it.
one_at_a_time = threading.RLock()


@dataclass(frozen=True, eq=False)
class Operation:
    """What was done to a tensor once. with_grad: whether gradients were on."""

    function: Callable
    arguments: tuple
    with_grad: bool

    def __call__(self, tensor: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.with_grad):
            return self.function(tensor, *self.arguments)


Operations = tuple[Operation, ...]


def done(operations: Operations, tensor: Tensor) -> Tensor:
    for operation in operations:
        tensor = operation(tensor)
    return tensor


class Block:
    """What lazy tensors that alias stand for: one tensor that is not computed yet, or `given`.

    place: that tensor's, on the way to a loss that was made without it.
    origins: the blocks whose tensors this one is made from, the nearest first, with what is done to
    them. A hook on one of those has the gradient of this one too, so a block that is computed while
    one of its origins is not comes after the place of that, and is computed with it otherwise.
    plain: while it is computed, its tensors that are plain already, by what makes them of the
    block's, so that what is made of one of them comes after it.

    Its lazy tensors own it; it knows them by weak references, which go before they become plain, as
    torch changes no tensor that has some.
    """

    def __init__(self, source: Source, origins: "tuple[Origin, ...]" = ()):
        self.tensor: Tensor | None = None
        self.given: Tensor | None = None
        self.place: Place | None = None
        self.lazies: list[weakref.ref] = []
        self.plain: dict[Operations, Tensor] = {}
        self.origins = origins
        if source.are_the_logits:
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
        with one_at_a_time, off, unwatched(), self.source.as_at_the_head():
            has_nothing_else = self.tensor is None and self._has_nothing_else()
            if self.tensor is None:
                # What these hold may become a lazy tensor of this block.
                self.tensor, self.given, self.place = self._made(), None, None
            living = self._living()
            is_alone = has_nothing_else and len(living) == 1
            self.lazies.clear()
            for lazy in living:
                views = lazy._lazy.views
                self.plain[views] = lazy._become_plain(is_alone)
            for copy in self._copies():
                copy.compute()
            self.plain.clear()

    def _has_nothing_else(self) -> bool:
        """Whether neither a loss nor a copy was made of them, and they are none."""
        blocks = [block for reference in self.source.call.blocks if (block := reference())]
        return self.place is None and not self.origins and blocks == [self]

    def _living(self) -> list:
        return [lazy for reference in self.lazies if (lazy := reference()) is not None]

    def done(self, operations: Operations) -> Tensor:
        """What they make of the tensor, by way of what is plain already."""
        for number in range(len(operations), 0, -1):
            if (plain := self.plain.get(operations[:number])) is not None:
                return done(operations[number:], plain)
        return done(operations, self.tensor)

    def _made(self) -> Tensor:
        if self.given is not None:
            self.source.check()
            return self.given
        origin, operations = next(self._living_origins(), (None, ()))
        if self.place is None and origin is not None and origin._has_view_among(operations):
            origin.compute()
        if self.tensor is not None:
            return self.tensor
        if origin is not None and origin.tensor is not None:
            return origin.done(operations)
        if self.place is None and (origin is None or not self.source.has_gradients):
            return self.source.compute()
        return self.placed().filled()

    def _has_view_among(self, operations: Operations) -> bool:
        """Whether somebody has a view of this tensor that these lead by, and that no place can be
        after, as there is one for the tensor alone."""
        views = [lazy._lazy.views for lazy in self._living()] if self.place is None else []
        return any(one and one == operations[: len(one)] for one in views)

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

    def _living_origins(self) -> "Iterator[tuple[Block, Operations]]":
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

    def origins_of_a_copy(self, operations: Operations) -> "tuple[Origin, ...]":
        """Of a block that these operations make of this one."""
        further = [(reference, (*before, *operations)) for reference, before in self.origins]
        return ((weakref.ref(self), operations), *further) if self.is_seen else tuple(further)


Origin = tuple[weakref.ref, Operations]
