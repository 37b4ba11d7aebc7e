"""How transformers finds the function that runs a module's experts, and what that function runs.

The forward of such a class asks an interface by the name that the module's config has. What answers
must be transformers' own, and all of it is watched: the interface's attributes and methods, the
functions that it holds, and those of their file that they reach by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import FunctionType

from ..probe import Mismatch
from ..source.compared import Function, function_of
from ..source.definition import names_in
from ..source.transformers_own import is_transformers

DISPATCHER = "transformers.integrations.moe"
# Its own names for implementations that compute the same; the first is the class's own loop.
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
# What an interface is asked by, and where it keeps its functions.
LOOKUPS = ("get_interface", "get", "__getitem__", "__contains__")
MAPPINGS = ("_local_mapping", "_global_mapping")
REMEMBERING = type(cache(len))


@dataclass(frozen=True)
class Dispatch:
    """What a dispatched forward depends on beside its module: see the fields of `Guard`."""

    functions: tuple[Function, ...]
    defined: tuple[tuple[object, str, object], ...]
    names: tuple[tuple[dict, str, object], ...]


def finders_of(own: FunctionType) -> Dispatch:
    """What finds the function of a name. Raises Mismatch if that is not transformers'."""
    interface = interface_of(own)
    kind, held = type(interface), vars(interface)
    lookups = {name: getattr(kind, name) for name in LOOKUPS if hasattr(kind, name)}
    for name, method in lookups.items():
        if name in held or not is_lookup(method, name):
            raise Mismatch(f"another {name} finds its experts' implementation")
    # `super()` in a class of transformers' finds what the next one has.
    kinds = [one for one in kind.__mro__ if is_of_transformers(one)]
    defined = [
        (one, name, getattr(one, name)) for one in kinds for name in LOOKUPS if hasattr(one, name)
    ]
    return Dispatch(
        tuple(map(function_of, lookups.values())),
        (
            (interface, "__class__", kind),
            (kind, "_global_mapping", kind._global_mapping),
            *defined,
        ),
        (
            *((held, name, held.get(name)) for name in (*LOOKUPS, *MAPPINGS)),
            *names_read_by([own]),
        ),
    )


def dispatch_of(own: FunctionType, implementation: str) -> Dispatch:
    """What is found by that name, and all it runs. Raises Mismatch if that is not theirs."""
    interface = interface_of(own)
    mappings = [getattr(interface, name) for name in MAPPINGS]
    reached = functions_reached(implementations_in(mappings, implementation))
    found = [(one, implementation, one.get(implementation)) for one in mappings]
    return Dispatch(tuple(map(function_of, reached)), (), (*found, *names_read_by(reached)))


def interface_of(own: FunctionType) -> object:
    """What a dispatched forward asks: it is in its closure, or its file's only one."""
    cells = dict(zip(own.__code__.co_freevars, own.__closure__ or (), strict=True))
    if "experts_interface" in cells:
        return cells["experts_interface"].cell_contents
    return own.__globals__["ALL_EXPERTS_FUNCTIONS"]


def implementations_in(mappings: list[dict], name: str) -> list[FunctionType]:
    """What has that name there; Mismatch unless it is transformers' function of a known name."""
    if name not in IMPLEMENTATIONS:
        raise Mismatch(f"its experts' implementation is {name!r}")
    functions = [one[name] for one in mappings if name in one]
    if not all(is_transformers(one, f"{name}_experts_forward") for one in functions):
        raise Mismatch(f"its experts' implementation {name!r} is not that of transformers")
    if not functions and name != IMPLEMENTATIONS[0]:
        raise Mismatch(f"its experts' implementation {name!r} is not registered")
    return functions


def functions_reached(functions: Iterable[FunctionType]) -> list[FunctionType]:
    """These, and the Python functions of their files that they reach by name."""
    found: list[FunctionType] = []
    waiting = list(functions)
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.append(one)
        scope = one.__globals__
        values = [scope[name] for name in globals_of(one)]
        waiting += [v for v in values if type(v) is FunctionType and v.__globals__ is scope]
    return found


def names_read_by(functions: Iterable[FunctionType]) -> list[tuple[dict, str, object]]:
    return [
        (one.__globals__, name, one.__globals__[name])
        for one in functions
        for name in globals_of(one)
    ]


def globals_of(function: FunctionType) -> list[str]:
    """The names in its code that its file has a value for, but for functions that remember what
    they gave: torch.compile of torch 2.11 compares none of these."""
    scope = function.__globals__
    names = names_in(function.__code__) & scope.keys()
    return sorted(name for name in names if type(scope[name]) is not REMEMBERING)


def is_lookup(method: object, name: str) -> bool:
    """Whether a method of an interface is the one that transformers, or any mapping, has."""
    if method is getattr(Mapping, name, None):
        return True
    kinds = ("ExpertsInterface", "GeneralInterface")
    return any(is_transformers(method, f"{kind}.{name}") for kind in kinds)


def is_of_transformers(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "transformers"
