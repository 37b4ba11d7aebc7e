"""What small parts of a source, and what they name, are."""

import ast
from collections.abc import Container
from types import FunctionType

from .compared import is_immutable

# Of what a branch on a module's own numbers is made.
TESTS = (
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.Compare,
    ast.BoolOp,
    ast.UnaryOp,
    ast.Tuple,
    ast.List,
)
STATEMENTS = (
    ast.Assign, ast.AnnAssign, ast.Return, ast.Expr, ast.If, ast.Pass, ast.Raise, ast.With,
)  # fmt: skip
# Of the inputs that operators take: see `is_usable`.
DEVICES = ("cuda", "cpu", "meta")


def has_changing_default(function: FunctionType) -> bool:
    """Whether it has a default that a call may write to."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return not all(map(is_immutable, defaults))


def has_nested_calls(one: ast.Raise) -> bool:
    """Whether more is called than the exception's class."""
    return len([node for node in ast.walk(one) if isinstance(node, ast.Call)]) > 1


def is_activation_table(value: object) -> bool:
    """Whether it is transformers' table of activations, which makes a module at each look. By name:
    its package need not be there."""
    kind = type(value)
    return (kind.__module__, kind.__name__) == ("transformers.activations", "ClassInstantier")


def asks_for_none(test: ast.expr) -> bool:
    """`something is None`, or is not."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    if not isinstance(test.ops[0], (ast.Is, ast.IsNot)):
        return False
    return isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None


def is_on_another_device(test: ast.Compare, tensors: Container[str]) -> bool | None:
    """The outcome of `x.device.type == "mps"`, or of the contrary, for a kind of device on which
    nothing is replaced and one of these tensors; None for any other test of one comparison."""
    kind = getattr(test.comparators[0], "value", None)
    if type(kind) is not str or kind in DEVICES or type(test.ops[0]) not in (ast.Eq, ast.NotEq):
        return None
    tensor = test.left.value.value if is_named(test.left, "device", "type") else None
    asks = isinstance(tensor, ast.Name) and tensor.id in tensors
    return isinstance(test.ops[0], ast.NotEq) if asks else None


def is_named(node: ast.expr, outer: str, inner: str) -> bool:
    """`something.outer.inner`."""
    within = getattr(node, "value", None)
    ends = isinstance(node, ast.Attribute) and node.attr == inner
    return ends and isinstance(within, ast.Attribute) and within.attr == outer


def first_line(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:80]
