"""Whether a module answers for a name with what it holds by that name.

A replacement reads parameters, and asks about children, where a module holds them. Code of the
module's own reads attributes, and its class may answer these with anything.
"""

import inspect
from types import FunctionType

import torch
from torch import nn

from .source.torchs_own import taken

GETATTR = taken(nn.Module.__getattr__, "Module.__getattr__")
GETATTR_CODE = getattr(GETATTR, "__code__", None)
GETATTRIBUTE = object.__getattribute__
# What a guard has for a name that nothing holds.
ABSENT = object()


def looks_up_itself(kind: type) -> bool:
    """Whether modules of this class find their attributes in another way than torch's."""
    if kind.__getattr__ is not GETATTR or GETATTR.__code__ is not GETATTR_CODE:
        return True
    # Not every torch.compile knows this function again; it traces no lookup but torch's.
    return not torch.compiler.is_compiling() and kind.__getattribute__ is not GETATTRIBUTE


def answers_for(kind: type, name: str) -> bool:
    """Whether a module's class may give another thing than the parameter or child of that name: by
    an attribute of its own, or a lookup of its own."""
    return hasattr(kind, name) or looks_up_itself(kind)


def inherited(owner: type, kind: type, name: str) -> object:
    """What `super().name` finds in a method of `owner` that a module of class `kind` runs; None if
    there is nothing."""
    try:
        return getattr(super(owner, kind), name) if issubclass(kind, owner) else None
    except AttributeError:
        return None


def is_function(kind: type, name: str) -> bool:
    """Whether a class holds a function of Python by that name, which is bound to its objects.
    Anything that can be called may stand there, and a mock does in tests."""
    return type(inspect.getattr_static(kind, name)) is FunctionType


# What `torch.compiler.assume_constant_result` writes, and imports the compiler for.
is_function._dynamo_marked_constant = True
