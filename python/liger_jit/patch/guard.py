"""What a proof took for granted, asked again at each call.

A probe looks at a module once, and a module may be changed ever after: another activation, a hook,
another forward of its class, another function in the file that it comes from. A `Guard` holds all
that the module's own forward was read to depend on (`reading`). While it holds, the replacement
stands; else the module's own forward does. It is plain Python, which torch.compile traces into
guards of its own.

The functions of torch itself are trusted once they are known to be torch's (`torchs_own`), and so
are tensors' values, which a proof never reads.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FunctionType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from .lookup import ABSENT, answers_for, inherited, looks_up_itself
from .probe import Mismatch, Silent
from .quick_guard import quick_form
from .source.compared import Function, essence, function_of, is_same
from .source.reading import Reading, read
from .source.torchs_own import CALL, CALL_CODE, CALL_IMPL, CALL_IMPL_CODE, replaced_call

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Tensors that are not ordinary ones, and that the operators know all the same, by name: their
# packages take long to import.
KNOWN_KINDS = ("DTensor", "FakeTensor", "FunctionalTensor")
LOOKS_UP_ITSELF = "its class looks its attributes up itself"


def is_plain(tensor: Tensor | None) -> bool:
    """Whether the operators take this tensor as it is."""
    kind = type(tensor)
    if kind is not nn.Parameter and kind is not Tensor:
        if kind.__name__ not in KNOWN_KINDS or not kind.__module__.startswith("torch."):
            return False
    return tensor.layout is torch.strided


def is_usable(x: Tensor) -> bool:
    """Whether the operators take this input: its kind, layout, dtype and device, that its rows have
    elements, and that they can keep it for a backward."""
    if not is_plain(x) or x.is_nested or x.dim() == 0 or x.shape[-1] == 0:
        return False
    if x.dtype not in DTYPES and (x.dtype is not torch.float64 or x.is_cuda):
        return False
    if not (x.is_cuda or x.is_cpu or x.is_meta):
        return False
    return is_kept(x)


def is_kept(x: Tensor) -> bool:
    """Whether an operator that others have gradients from can keep x for its backward."""
    return x.requires_grad or not is_for_inference_alone(x)


def is_for_inference_alone(x: Tensor) -> bool:
    """Whether x comes from an inference mode that is over: no backward can keep it."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.is_inference()


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module is more than running its forward: a hook of its own or one that
    all modules have, or another `__call__`, as tracers put in."""
    kind, own = type(module), module.__dict__  # a lookup there costs the same for every class
    hooked = (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
        or "_compiled_call_impl" in own
        or "_call_impl" in own
        or kind.__call__ is not CALL
        or CALL.__code__ is not CALL_CODE
        or kind._call_impl is not CALL_IMPL
        or CALL_IMPL.__code__ is not CALL_IMPL_CODE
    )
    return bool(hooked) and type(own.get("_compiled_call_impl")) is not Silent


@dataclass(frozen=True, eq=False)
class Guard:
    """Thread-safe: nothing of it changes. One serves all modules that share a proof.

    forward: the class's. codes: (function, code, defaults) of all Python functions that it runs.
    functions: those of them that have keyword defaults or closure cells as well. values:
    attributes that it reads. callables: attributes that it calls, as `essence`. methods: functions
    of the class. inherited: (class, name, function) that `super()` finds after that class. defined:
    (owner, name, value) of classes, or objects, of others. names: (globals, name, value). tensors:
    parameters that must be plain. children: modules whose work a replacement does, so that nobody
    calls them. made: modules like those that the forward makes and calls. chosen: (choose, guards):
    the one by the name `choose(module)` must hold.
    """

    forward: Callable
    codes: tuple[tuple[FunctionType, CodeType, tuple | None], ...] = ()
    functions: tuple[Function, ...] = ()
    values: tuple[tuple[str, object], ...] = ()
    callables: tuple[tuple[str, object], ...] = ()
    methods: tuple[tuple[str, Callable], ...] = ()
    inherited: tuple[tuple[type, str, Callable], ...] = ()
    defined: tuple[tuple[object, str, object], ...] = ()
    names: tuple[tuple[dict, str, object], ...] = ()
    tensors: tuple[str, ...] = ()
    children: "tuple[tuple[str, Guard], ...]" = ()
    made: tuple[nn.Module, ...] = ()
    chosen: "tuple[tuple[Callable[[nn.Module], object], dict[object, Guard]], ...]" = ()

    @functools.cached_property
    def holds(self) -> Callable[[nn.Module], bool]:
        """Its quick form, which children of other guards need none of."""
        return quick_form(self, is_plain, is_hooked)

    def broken(self, module: nn.Module) -> str | None:
        """What is not as it was seen; None while all is."""
        if not torch.compiler.is_compiling() and self.holds(module):
            return None
        kind = type(module)
        if kind.forward is not self.forward:
            return "its class has another forward"
        if (self.tensors or self.children or self.methods) and looks_up_itself(kind):
            return LOOKS_UP_ITSELF
        for function, code, defaults in self.codes:
            if function.__code__ is not code or not is_same(function.__defaults__, defaults):
                return f"{function.__qualname__} is another"
        for one in self.functions:
            if one.is_changed():
                return f"{one.function.__qualname__} is another"
        for name, value in self.values:
            if not is_same(getattr(module, name, ABSENT), value):
                return f"{name} is another"
        for name, value in self.callables:
            if not is_same(essence(getattr(module, name, ABSENT), module), value):
                return f"{name} is another"
        for name, function in self.methods:
            if name in module.__dict__ or getattr(kind, name, None) is not function:
                return f"{name} is another"
        for owner, name, function in self.inherited:
            if inherited(owner, kind, name) is not function:
                return f"super().{name} is another"
        for owner, name, function in self.defined:
            if getattr(owner, name, None) is not function:
                return f"{getattr(owner, '__name__', 'its')}.{name} is another"
        for scope, name, value in self.names:
            if scope.get(name) is not value:
                return f"{name} of its file is another"
        for name in self.tensors:
            # Not an attribute of another kind: reading a parametrised weight may change it.
            if name in module.__dict__ or not is_plain(module._parameters.get(name)):
                return f"{name} is no plain parameter"
            if hasattr(kind, name):
                return f"its class has another {name}"
        for name, guard in self.children:
            child = module._modules.get(name)
            if child is None or name in module.__dict__ or hasattr(kind, name):
                return f"{name} is no module"
            reason = guard.broken_by_itself(child)
            if reason is not None:
                return f"in {name}: {reason}"
        for choose, guards in self.chosen:
            guard = guards.get(choose(module))
            if guard is None:
                return f"{choose(module)!r} was not proved"
            if (reason := guard.broken(module)) is not None:
                return reason
        if any(map(is_hooked, self.made)):
            return "all modules have hooks"
        return None

    def broken_by_itself(self, child: nn.Module) -> str | None:
        """The same of a module that is called by others: calling it must be running its forward."""
        if "forward" in child.__dict__:
            return "it has a forward of its own"
        return "it has hooks" if is_hooked(child) else self.broken(child)


def guard_of(
    module: nn.Module,
    tensors: tuple[str, ...] = (),
    called: tuple[str, ...] = (),
    found: Reading | None = None,
    count: int = 1,
    autocast: bool = False,
) -> Guard:
    """The guard of a replacement for this module's own forward, as the module is now.

    Args:
        tensors: parameters that the replacement reads itself.
        called: children that the replacement calls as modules.
        found: what the forward's source says, if it was read already.
        count: how many tensors each call gives the forward.
        autocast: whether the replacement was tried in each state of autocast.

    Raises Mismatch if the forward cannot be watched: see `reading`.
    """
    own = type(module).forward
    if found is None:
        found = read(module, own, count, autocast)
    for name in sorted(found.tensors - set(tensors)):
        raise Mismatch(f"its forward reads the parameter {name}")
    watched = sorted(found.called - set(called))
    if (found.tensors or watched or found.methods) and looks_up_itself(type(module)):
        raise Mismatch(LOOKS_UP_ITSELF)
    return Guard(
        own,
        *parts_of(found.functions.values()),
        tuple(found.values.items()),
        tuple(found.callables.items()),
        tuple(found.methods.items()),
        tuple((owner, name, one) for (owner, name), one in found.inherited.items()),
        tuple(found.defined.values()),
        tuple(found.names.values()),
        tuple(sorted(found.tensors)),
        tuple((name, guard_of_child(module, name)) for name in watched),
        tuple(found.made),
    )


def guard_of_child(module: nn.Module, name: str) -> Guard:
    """Of a child whose work a replacement does. Raises Mismatch if that cannot be watched."""
    child = module._modules[name]
    if reason := replaced_call():
        raise Mismatch(reason)
    if answers_for(type(module), name):
        raise Mismatch(f"its class may give another {name} than it holds")
    if child is None or "forward" in child.__dict__ or is_hooked(child):
        raise Mismatch(f"{name} has hooks or a forward of its own")
    return guard_of(child)


def guard_of_rewritten(
    own: Callable,
    names: tuple[tuple[dict, str, object], ...] = (),
    replaced: Iterable[Function] = (),
) -> Guard:
    """Of a forward compiled anew from its source: it must be the same function, and so must the
    functions that it calls no more; and `names`."""
    functions, inner = [], own
    while inner is not None:
        functions.append(function_of(inner))
        inner = getattr(inner, "__wrapped__", None)
    return Guard(own, *parts_of([*functions, *replaced]), names=names)


def parts_of(functions: Iterable[Function]) -> tuple[tuple, tuple[Function, ...]]:
    """(codes, functions) of a guard."""
    functions = tuple(functions)
    codes = tuple((one.function, one.code, one.defaults) for one in functions)
    return codes, tuple(one for one in functions if one.named_defaults or one.cells)
