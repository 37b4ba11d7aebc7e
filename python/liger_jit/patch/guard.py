"""What a proof took for granted, asked again at each call.

A probe looks at a module once, and a module may be changed ever after: another activation, a hook,
another forward of its class, another function in the file that it comes from. A `Guard` holds what
the probe saw of all that. While it holds, the replacement stands; else the module's own forward
does. It is plain Python, which torch.compile traces into guards of its own.

The functions of torch itself are trusted, and so are tensors' values, which a proof never reads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from .probe import Mismatch, Silent
from .source import codes_in

# An attribute of one of these types is the same as before if it is equal.
COMPARED = (int, float, str, bool, tuple, torch.dtype, torch.device, type(None), type)
FUNCTIONS = (FunctionType, BuiltinFunctionType)
GPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CALL = nn.Module.__call__
PLAIN_MODULE = frozenset(nn.Module().__dict__)
# Tensors that are not ordinary ones, and that the operators know all the same, by name: their
# packages take long to import.
KNOWN_KINDS = ("DTensor", "FakeTensor", "FunctionalTensor")


def is_plain(tensor: Tensor | None) -> bool:
    """Whether the operators take this tensor as it is."""
    kind = type(tensor)
    if kind is nn.Parameter or kind is Tensor:
        return True
    return kind.__name__ in KNOWN_KINDS and kind.__module__.startswith("torch.")


def is_usable(x: Tensor) -> bool:
    """Whether the operators take this input: its kind, dtype and device."""
    if type(x) is not Tensor and not is_plain(x):
        return False
    if x.is_cuda:
        return x.dtype in GPU_DTYPES
    return (x.is_cpu or x.is_meta) and x.is_floating_point()


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module is more than running its forward: a hook of its own or one that
    all modules have, or another `__call__`, as tracers put in."""
    hooked = (
        type(module).__call__ is not CALL
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
    )
    return bool(hooked) and type(module._compiled_call_impl) is not Silent


@dataclass(frozen=True, eq=False)
class Guard:
    """Thread-safe: nothing of it changes. One serves all modules that share a proof.

    forward: the class's. values: attributes that it reads. callables: those that a deep copy makes
    anew, as `essence`. methods: functions of the class. names: (globals, name, value). tensors:
    parameters that must be plain. numbers: attributes that must be one. children: modules whose
    work a replacement does, so that nobody calls them.
    """

    forward: Callable
    values: tuple[tuple[str, object], ...] = ()
    callables: tuple[tuple[str, object], ...] = ()
    methods: tuple[tuple[str, Callable], ...] = ()
    names: tuple[tuple[dict, str, object], ...] = ()
    tensors: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    children: "tuple[tuple[str, Guard], ...]" = ()

    def broken(self, module: nn.Module) -> str | None:
        """What is not as it was seen; None while all is."""
        kind = type(module)
        if kind.forward is not self.forward:
            return "its class has another forward"
        for name, value in self.values:
            found = getattr(module, name, None)
            if found is not value and found != value:
                return f"{name} is another"
        for name, value in self.callables:
            if essence(getattr(module, name, None)) != value:
                return f"{name} is another"
        for name, function in self.methods:
            if name in module.__dict__ or getattr(kind, name, None) is not function:
                return f"{name} is another"
        for scope, name, value in self.names:
            if scope.get(name) is not value:
                return f"{name} of its file is another"
        for name in self.tensors:
            tensor = module._parameters.get(name)
            if not is_plain(getattr(module, name, None) if tensor is None else tensor):
                return f"{name} is no plain tensor"
        for name in self.numbers:
            if type(getattr(module, name, None)) not in (float, int):
                return f"{name} is no number"
        for name, guard in self.children:
            child = module._modules.get(name)
            if child is None:
                return f"{name} is no module"
            if "forward" in child.__dict__:
                return f"{name} has a forward of its own"
            if is_hooked(child):
                return f"{name} has hooks"
            reason = guard.broken(child)
            if reason is not None:
                return f"in {name}: {reason}"
        return None


def guard_of(
    module: nn.Module,
    live: tuple[str, ...] = (),
    tensors: tuple[str, ...] = (),
    called: tuple[str, ...] = (),
) -> Guard:
    """The guard of a replacement for this module's own forward, as the module is now.

    Args:
        live: numbers among its attributes that the replacement reads itself, at each call.
        tensors: parameters that the replacement reads itself.
        called: children that the replacement calls as modules.

    Raises Mismatch if the forward reads what cannot be compared, such as the model's settings, a
    buffer, or a parameter that is not among `tensors`: a probe says nothing about their next value.
    """
    own = type(module).forward
    functions = set(reached_from(own, module))
    attributes = {name for function in functions for name in names_in(function)}
    for held in attributes.intersection(module.__dict__):
        functions |= set(reached_from(module.__dict__[held]))
    values, callables, methods, children = [], [], [], []
    for name in sorted(attributes - PLAIN_MODULE):
        if name in module._parameters or name in module._buffers:
            if module._parameters.get(name, module._buffers.get(name)) is None:
                values.append((name, None))
            elif name not in tensors:
                raise Mismatch(f"its forward reads the tensor {name}")
        elif name in module._modules:
            if name not in called:
                child = module._modules[name]
                if is_replaced(child):
                    raise Mismatch(f"{name} has a forward of its own")
                children.append((name, guard_of(child)))
        elif name in module.__dict__:
            value = module.__dict__[name]
            if name in live:
                continue
            if type(value) is partial or (type(value) is MethodType and value.__self__ is module):
                callables.append((name, essence(value)))
            elif isinstance(value, (*COMPARED, *FUNCTIONS)):
                values.append((name, value))
            else:
                raise Mismatch(f"its forward reads {name}, a {type(value).__name__}")
        elif name != "forward" and (found := methods_of(module, name)):
            methods.append((name, found[0]))
    names = [*globals_of(functions), *inherited(functions, module)]
    return Guard(
        own,
        tuple(values),
        tuple(callables),
        tuple(methods),
        tuple(names),
        tensors,
        live,
        tuple(children),
    )


def essence(function: Callable) -> object:
    """What a method or a partial function runs."""
    if type(function) is MethodType:
        return function.__func__
    if type(function) is partial:
        return function.func, function.args, function.keywords
    return function


def is_replaced(module: nn.Module) -> bool:
    return "forward" in module.__dict__


def names_in(function: FunctionType) -> set[str]:
    """Of globals and attributes."""
    return {name for code in codes_in(function.__code__) for name in code.co_names}


def classes_of(module: nn.Module) -> list[type]:
    """Of its own: those before `nn.Module`."""
    return [one for one in type(module).__mro__ if one not in nn.Module.__mro__]


def methods_of(module: nn.Module, name: str) -> list[FunctionType]:
    """The functions that the module's classes have under that name, the one it uses first."""
    found = [vars(one).get(name) for one in classes_of(module)]
    return [one for one in found if isinstance(one, FunctionType)]


def inherited(functions: set[FunctionType], module: nn.Module) -> list[tuple[dict, str, object]]:
    """(class's dict, name, function) of what these functions may run through `super()`."""
    if not any("super" in names_in(function) for function in functions):
        return []
    return [
        (vars(one), function.__name__, function)
        for one in classes_of(module)[1:]
        for function in functions
        if vars(one).get(function.__name__) is function
    ]


def reached_from(function: Callable, module: nn.Module | None = None) -> Iterator[FunctionType]:
    """The Python functions that `function` may run: what it wraps, globals that it names, and
    methods of `module`, and what these run; those of torch excepted."""
    seen, waiting = set(), [function]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, FunctionType) or one in seen:
            continue
        if one is not function and one.__module__ and one.__module__.split(".")[0] == "torch":
            continue
        seen.add(one)
        yield one
        waiting.append(getattr(one, "__wrapped__", None))
        for name in names_in(one):
            waiting.append(one.__globals__.get(name))
            if module is not None:
                waiting += methods_of(module, name)


def globals_of(functions: set[FunctionType]) -> list[tuple[dict, str, object]]:
    """(globals, name, value) of all that these functions name, but for modules and types."""
    found = {}
    for function in functions:
        scope = function.__globals__
        for name in names_in(function):
            value = scope.get(name)
            if value is not None and not isinstance(value, (ModuleType, type)):
                found[id(scope), name] = (scope, name, value)
    return sorted(found.values(), key=lambda one: one[1])
