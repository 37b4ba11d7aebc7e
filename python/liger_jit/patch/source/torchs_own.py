"""What is torch's own: known by the code that runs, which no wrapper copies.

A replacement stands for torch's functions as torch wrote them. Somebody may have put others in
their places before this package was imported, so none is taken for torch's by where it was found.
"""

import inspect
import math
import os
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, ModuleType

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import linear as linear_file

HOME = os.path.dirname(torch.__file__) + os.sep
ROOTS = ("torch", "math")
# What their attributes of these names are, and stay.
NUMBERS = {"pi": math.pi, "e": math.e, "tau": math.tau, "inf": math.inf, "nan": math.nan}
ALIASES = {"float": torch.float32, "double": torch.float64, "half": torch.float16}


def name_in(home: str, function: FunctionType) -> str | None:
    """The qualified name of a function whose code is from a file of that folder."""
    code = function.__code__
    if not code.co_filename.startswith(home):
        return None
    if hasattr(code, "co_qualname"):
        return code.co_qualname
    # Python 3.10: that of the function, unless it has the code of another.
    own = function.__qualname__.rpartition(".")[2] == code.co_name
    return function.__qualname__ if own else code.co_name


def torchs_name(function: object) -> str | None:
    """The qualified name by which torch, or Python's mathematics, defines this function; None if
    neither does."""
    if isinstance(function, FunctionType):
        return name_in(HOME, function)
    if isinstance(function, MethodDescriptorType):
        owner = function.__objclass__
    elif isinstance(function, BuiltinFunctionType):
        owner = function.__self__
    else:
        return None
    place = owner.__name__ if isinstance(owner, ModuleType) else getattr(owner, "__module__", None)
    # Functions of torch's namespace have no owner; a method of some object has one of no such kind.
    if owner is not None and not isinstance(owner, (ModuleType, type)):
        return None
    if owner is not None and (place or "").split(".")[0] not in ROOTS:
        return None
    return function.__name__.removeprefix("special_")


def takes_inplace(function: object, positional: int) -> bool:
    """Whether so many arguments without names are enough to say `inplace` to a function."""
    if not isinstance(function, FunctionType) or torchs_name(function) is None:
        return False
    return "inplace" in list(inspect.signature(function).parameters)[:positional]


def is_torchs(function: object, name: str) -> bool:
    """Whether torch defines this function, and by that name, of whatever class."""
    return (torchs_name(function) or "").rpartition(".")[2] == name


def is_constant(value: object, name: str) -> bool:
    """Whether a library's attribute of that name is a number of mathematics or a dtype of torch,
    by a name of its own. All else that is kept there is somebody's setting, or torch's."""
    if isinstance(value, torch.dtype):
        return str(value) == f"torch.{name}" or ALIASES.get(name) is value
    return name in NUMBERS and value is NUMBERS[name]


def taken(function: object, name: str) -> Callable | None:
    """A function to be known again by identity: None, which nothing is, if it is not torch's."""
    return function if torchs_name(function) == name else None


CALL = taken(nn.Module.__call__, "Module._wrapped_call_impl")
CALL_IMPL = taken(nn.Module._call_impl, "Module._call_impl")
LINEAR_FORWARD = taken(nn.Linear.forward, "Linear.forward")
LINEAR = taken(F.linear, "linear")
CROSS_ENTROPY = taken(F.cross_entropy, "cross_entropy")
# What they run, which may be replaced in place. Who compares it compares the function first.
CALL_CODE, CALL_IMPL_CODE, LINEAR_FORWARD_CODE, CROSS_ENTROPY_CODE = (
    getattr(function, "__code__", None)
    for function in (CALL, CALL_IMPL, LINEAR_FORWARD, CROSS_ENTROPY)
)


def replaced_call() -> str | None:
    """That modules are not called as torch calls them, if so."""
    own = nn.Module.__call__ is CALL and CALL.__code__ is CALL_CODE
    own = own and nn.Module._call_impl is CALL_IMPL and CALL_IMPL.__code__ is CALL_IMPL_CODE
    return None if own else "nn.Module.__call__ is not torch's own"


def replaced_linear() -> str | None:
    """What of a linear layer is not torch's own; None while all is."""
    own = nn.Linear.forward is LINEAR_FORWARD and LINEAR_FORWARD.__code__ is LINEAR_FORWARD_CODE
    if not own:
        return "nn.Linear.forward is not torch's own"
    # The forward reads the F of its own file.
    own = F.linear is LINEAR and linear_file.F.linear is LINEAR
    return None if own else "F.linear is not torch's own"


def replaced_cross_entropy() -> str | None:
    """That cross entropy is not torch's own, if so."""
    own = F.cross_entropy is CROSS_ENTROPY and CROSS_ENTROPY.__code__ is CROSS_ENTROPY_CODE
    return None if own else "F.cross_entropy is not torch's own"
