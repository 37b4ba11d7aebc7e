"""What small parts of a source, and what they name, are."""

import ast
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
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], (ast.Is, ast.IsNot)):
        return False
    return isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None


def is_on_another_device(test: ast.expr) -> bool | None:
    """The outcome of `x.device.type == "mps"`, or of the contrary, for a kind of device on which
    nothing is replaced; None for any other test."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    kind = getattr(test.comparators[0], "value", None)
    if type(kind) is not str or kind in DEVICES or type(test.ops[0]) not in (ast.Eq, ast.NotEq):
        return None
    asks = ast.unparse(test.left).endswith(".device.type")
    return isinstance(test.ops[0], ast.NotEq) if asks else None


def first_line(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:80]
