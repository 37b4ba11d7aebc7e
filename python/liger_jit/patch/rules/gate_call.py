"""The product of an activation and its neighbour in a gated MLP that does more than its formula.

Falcon-H1 scales on both sides of it, others drop out or clamp. In the source of the forward
`self.act(<gate>) * <up>`, or the other way round, becomes one call of ours; all else stays the
module's own, and is never run by a probe.
"""

import ast
import copy
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn

from ..guard import Guard, is_usable
from ..modes import is_watched
from ..probe import Mismatch, assert_same, random, run_own, twin_of
from ..rule import own_class_forward
from ..source.definition import definition_of, rebuilt, sure_definition
from .activation_call import PROBED, calls_in, is_as_seen

# A name that no forward has.
FUNCTION = "_liger_jit_gate"
Gate = Callable[[Tensor, Tensor], Tensor]


def product_in(definition: ast.FunctionDef, child: str) -> ast.BinOp | None:
    """The product of which the one call of this child is a factor."""
    calls = calls_in(definition, {child})
    products = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and len(calls) == 1
        and (node.left is calls[0]) != (node.right is calls[0])
    ]
    return products[0] if products else None


def gate_of(module: nn.Module, names: set[str]) -> str | None:
    """That of these children which the forward calls in one place, for a factor of a product; None
    if that is none or several."""
    definition = definition_of(own_class_forward(module))
    found = [name for name in names if definition and product_in(definition, name)]
    return found[0] if len(found) == 1 else None


def with_gate(module: nn.Module, child: str, operator: Gate, guard: Guard) -> FunctionType:
    """The class's forward with that product through `operator`; `Mismatch` if it cannot be
    rebuilt. `guard`: see `guard_of_call`."""
    own = own_class_forward(module)
    definition = copy.deepcopy(sure_definition(own))
    product, (call,) = product_in(definition, child), calls_in(definition, {child})
    gate_first = product.left is call
    if gate_first and not _leaves_alone(call.args[0], product.right, module):
        raise Mismatch("what it multiplies the activation with may write to the activation's input")
    # What is evaluated, in the order in which it was, but for the activation.
    factors = [call.args[0], product.right] if gate_first else [product.left, call.args[0]]
    name = ast.Name(FUNCTION, ast.Load())
    new = ast.Call(name, [call.func, *factors], [])
    for node in (name, new):
        ast.copy_location(node, product)
    definition = Replaced(product, new).visit(definition)
    return rebuilt(definition, own, {FUNCTION: through(operator, gate_first, guard.children[0][1])})


def _leaves_alone(gate: ast.expr, up: ast.expr, module: nn.Module) -> bool:
    """Whether `up`, which the module evaluates after the activation and we before it, writes to
    nothing that the activation reads: it calls none but children, and none with a name of that."""
    calls = [node for node in ast.walk(gate) if isinstance(node, ast.Call)]
    read = set() if calls else _names(gate)
    for node in ast.walk(up):
        if not isinstance(node, PLAIN + (ast.Call, ast.expr_context, ast.operator, ast.unaryop)):
            return False
        if isinstance(node, ast.Call):
            child = node.func.attr if isinstance(node.func, ast.Attribute) else None
            if child not in module._modules or node.keywords:
                return False
            if any(read & _names(one) for one in node.args):
                return False
    return True


# Expressions that write to nothing.
PLAIN = (
    ast.Name, ast.Attribute, ast.Constant, ast.Subscript, ast.Slice, ast.Tuple, ast.BinOp,
    ast.UnaryOp,
)  # fmt: skip


def _names(node: ast.expr) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


class Replaced(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.expr, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


def through(
    operator: Gate, gate_first: bool, guard: Guard
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def gated(child: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        gate, up = (first, second) if gate_first else (second, first)
        if is_as_seen(child, guard) and not is_watched() and are_alike(gate, up):
            return operator(gate, up)
        return child(gate) * up if gate_first else up * child(gate)

    return gated


def are_alike(gate: object, up: object) -> bool:
    """A factor may be a number."""
    if not isinstance(gate, Tensor) or not isinstance(up, Tensor):
        return False
    if not is_usable(gate) or not is_usable(up):
        return False
    return gate.shape == up.shape and gate.dtype == up.dtype and gate.device == up.device


def compare(child: nn.Module, operator: Gate, device: torch.device, dtype: torch.dtype) -> None:
    """`Mismatch` unless the operator is the product with what the child gives."""
    generator, twin = torch.Generator().manual_seed(31), twin_of(child)
    for shape in PROBED:
        both = [random(shape, generator, dtype).to(device) for _ in range(2)]
        assert_same(lambda g, u: run_own(child, twin, g) * u, operator, both, (), "the operator")
