"""Whether a loss function is what torch.compile made, or calls such a function: with fullgraph=True
that takes no lazy logits."""

import functools
from collections.abc import Iterator
from types import FunctionType, MethodType

from torch import nn

from ..source.definition import contents_of, names_in
from ..stand_in import LossFunction


def is_compiled(function: object) -> bool:
    """Whether torch.compile made this function or module, or compiles the calls of this module, or
    made what it calls by a name of its own."""
    if type(function) is LossFunction:
        return False
    return is_made_by_compile(function) or any(map(is_made_by_compile, named_in(function)))


def is_made_by_compile(function: object) -> bool:
    kept = getattr(function, "__dict__", None)
    return isinstance(kept, dict) and (
        kept.get("_torchdynamo_orig_callable") is not None
        or kept.get("_compiled_call_impl") is not None
    )


def named_in(function: object) -> Iterator[object]:
    """What a function finds in its closure and its file, a method in its object as well."""
    if isinstance(function, functools.partial):
        function = function.func
        yield function
    if isinstance(function, MethodType):
        yield from held_by(function.__self__)
        function = function.__func__
    elif not isinstance(function, FunctionType):
        yield from held_by(function)
        function = getattr(type(function), "forward", None) or type(function).__call__
    if isinstance(function, FunctionType):
        yield from map(contents_of, function.__closure__ or ())
        names = names_in(function.__code__)
        yield from (function.__globals__[name] for name in names & function.__globals__.keys())


def held_by(owner: object) -> Iterator[object]:
    held = getattr(owner, "__dict__", {})
    yield from held.values()
    if isinstance(owner, nn.Module):
        yield from held["_modules"].values()
