"""What a guard compares: values by type and truth, functions by all that may be replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType

import torch
from torch import nn

# Compared by type and value. Functions are known by what they hold: see `Function`.
COMPARED = (int, float, str, bool, torch.dtype, torch.device, type(None))


def is_immutable(value: object) -> bool:
    if type(value) is tuple:
        return all(map(is_immutable, value))
    return type(value) in COMPARED


@dataclass(frozen=True, eq=False)
class Function:
    """A Python function and all of it that can be replaced in place.

    cells: what reads each cell of its closure, and what was in it.
    """

    function: FunctionType
    code: CodeType
    defaults: tuple | None
    named_defaults: dict
    cells: tuple[tuple[Callable[[], object], object], ...]

    def is_changed(self) -> bool:
        """But for code and defaults, which a guard compares itself."""
        if not is_same(self.function.__kwdefaults__ or {}, self.named_defaults):
            return True
        return any(is_another(read, value) for read, value in self.cells)


def reader_of(cell: CellType) -> Callable[[], object]:
    """A function that has the cell in its closure. torch.compile takes a cell that it meets as an
    object for no cell any more, in whatever closure it stands."""

    def read(value: object = None) -> Callable[[], object]:
        return lambda: value

    return FunctionType(read().__code__, globals(), "read", None, (cell,))


def is_another(read: Callable[[], object], value: object) -> bool:
    try:
        return read() is not value
    except NameError:  # the cell was emptied
        return True


def function_of(function: FunctionType) -> Function:
    cells = [
        (cell, cell.cell_contents)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ())
        if name != "__class__"
    ]
    return Function(
        function,
        function.__code__,
        function.__defaults__,
        dict(function.__kwdefaults__ or {}),
        tuple((reader_of(cell), value) for cell, value in cells),
    )


def is_same(found: object, value: object) -> bool:
    """By type and value, in tuples and dicts as well. What was read is all of kinds that compare to
    one truth; what stands in its place now may be of any."""
    if found is value:
        return True
    if type(found) is not type(value):
        return False
    if type(value) is tuple:
        return len(found) == len(value) and all(map(is_same, found, value))
    if type(value) is dict:
        same_names = found.keys() == value.keys()
        return same_names and all(is_same(found[name], value[name]) for name in value)
    return found == value


def essence(function: object, module: nn.Module | None) -> object:
    """What a module's own method or a partial function runs, whatever copy of it this is."""
    if type(function) is MethodType:
        return function.__func__ if function.__self__ is module else function
    if type(function) is partial:
        return function.func, (*function.args,), dict(function.keywords)
    return function
