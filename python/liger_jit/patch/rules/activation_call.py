"""The call of an activation in a forward that does more, such as dropout.

All else of the forward stays the module's own: in its source `self.act(<expression>)` becomes a
call of ours, which is given the child and the tensor. So the forward is never run by a probe; the
child alone is, and is watched.
"""

import ast
import copy
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType

import torch
from torch import Tensor, nn

from ..guard import Guard, guard_of_child, guard_of_rewritten, is_usable
from ..modes import is_watched
from ..probe import LONG, OUTLYING, TINY, assert_same, random, run_own, twin_of
from ..rule import own_class_forward
from ..source.definition import definition_of, rebuilt, sure_definition

# A name that no forward has.
FUNCTION = "_liger_jit_activation"
PROBED = ((5,), (2, 37), (1, LONG, 24))


def calls_in(definition: ast.FunctionDef, names: set[str]) -> list[ast.Call]:
    """All calls `self.name(<one expression>)` of one of these children, or [] if the forward does
    anything else with one of them."""
    own = definition.args.args[0].arg if definition.args.args else None
    attributes = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.Attribute) and node.attr in names and is_name(node.value, own)
    ]
    calls = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.Call)
        and node.func in attributes
        and len(node.args) == 1
        and not isinstance(node.args[0], ast.Starred)
        and not node.keywords
    ]
    return calls if len(calls) == len(attributes) else []


def is_name(node: ast.expr, name: str | None) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def called_once(module: nn.Module, names: set[str]) -> str | None:
    """That of these children which the forward calls in one place; None if that is none or more."""
    definition = definition_of(own_class_forward(module))
    calls = [] if definition is None else calls_in(definition, names)
    return calls[0].func.attr if len(calls) == 1 else None


def guard_of_call(module: nn.Module, child: str) -> Guard:
    """Raises Mismatch if the child cannot be watched. Runs nothing of it."""
    guard = guard_of_rewritten(own_class_forward(module))
    return replace(guard, children=((child, guard_of_child(module, child)),))


def with_call(
    module: nn.Module, child: str, operator: Callable[[Tensor], Tensor], guard: Guard
) -> FunctionType:
    """The class's forward in which that child is called through `operator`; `Mismatch` if it cannot
    be rebuilt. `guard`: see `guard_of_call`."""
    own = own_class_forward(module)
    definition = copy.deepcopy(sure_definition(own))
    (call,) = calls_in(definition, {child})
    call.args.insert(0, call.func)
    call.func = ast.copy_location(ast.Name(FUNCTION, ast.Load()), call)
    return rebuilt(definition, own, {FUNCTION: through(operator, guard.children[0][1])})


def through(
    operator: Callable[[Tensor], Tensor], guard: Guard
) -> Callable[[nn.Module, Tensor], Tensor]:
    def activate(child: nn.Module, x: Tensor) -> Tensor:
        if not is_as_seen(child, guard) or is_watched():
            return child(x)
        if not is_usable(x) or not x.is_contiguous():
            return child(x)
        return operator(x)

    return activate


def is_as_seen(child: object, guard: Guard) -> bool:
    """Asked where it is called: the forward may have put another there, or have changed it."""
    return isinstance(child, nn.Module) and guard.broken_by_itself(child) is None


def check_formula(child: nn.Module, formula: Callable[[Tensor], Tensor]) -> None:
    """`Mismatch` unless the child computes it, in all dtypes, and for large and small values."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        compare(child, formula, torch.device("cpu"), dtype)
    for scale in (OUTLYING, TINY):
        compare(child, formula, torch.device("cpu"), torch.float32, scale)


def compare(
    child: nn.Module,
    candidate: Callable[[Tensor], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> None:
    generator, twin = torch.Generator().manual_seed(31), twin_of(child)
    for shape in PROBED:
        x = (random(shape, generator) * 3 * scale).to(device, dtype)
        assert_same(lambda x: run_own(child, twin, x), candidate, [x], (), "the activation")
