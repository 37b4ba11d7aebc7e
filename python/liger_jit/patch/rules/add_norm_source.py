"""The source of a forward that makes a sum and gives it to a norm at once.

    x = residual + y
    residual = x                           or no such statement, or several
    z = x + self.mlp(self.norm(x))         or another statement that begins with the norm

becomes

    normed, x = add_and_norm(self.norm, residual, y)
    residual = x
    z = x + self.mlp(normed)
    del normed

so that nothing stands between the sum and the norm's call that could tell them from one, and what
comes after them cannot either (`sum_uses`). Both may be in a branch of an `if`; a branch that
stands between them is taken aside (`branch_between`). A sum without a name, `self.norm(x + y)`, is
seen by nobody else:

    add_and_norm(self.norm, x, y)[0]
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType

from ..source.definition import definition_of, innermost, rebuilt, statement_at
from . import branch_between, norm_add_source
from .branch_between import divided
from .sum_uses import shown

# Names that no forward has.
FUNCTION = "_liger_jit_add_and_norm"
NORMED = "_liger_jit_normed"


@dataclass(frozen=True)
class Sum:
    """In a forward's own statements: where it is made, where its norm is called, by what name, and
    what could tell the sum from another that is its norm's input: the text of that, or ""."""

    made: int
    used: int
    norm: str
    shown: str


def norms_after_sums(forward: Callable) -> tuple[str, ...]:
    """The children that a forward calls on sums which it just made, those of sums with names
    first."""
    code = getattr(innermost(forward), "__code__", None)
    named = (one.norm for one in sums_of(forward))
    return tuple(dict.fromkeys((*named, *norms_of_unnamed(forward, code))))


def shown_sums(forward: Callable) -> dict[str, str]:
    """{norm: what the forward does with its sum that two nodes of a graph are needed for}."""
    return {one.norm: one.shown for one in sums_of(forward) if one.shown}


def sums_of(forward: Callable) -> tuple[Sum, ...]:
    return sums_of_code(forward, getattr(innermost(forward), "__code__", None))


@cache
def norms_of_unnamed(forward: Callable, code: CodeType | None) -> tuple[str, ...]:
    """The children that a forward calls on sums in the call itself."""
    definition = definition_of(forward)
    nodes = ast.walk(definition) if definition else ()
    return tuple(norm for node in nodes if (norm := norm_of_sum(node)))


def norm_of_sum(node: ast.AST) -> str | None:
    """The name of the child, if this calls one on a sum."""
    if not isinstance(node, ast.Call) or node.keywords or len(node.args) != 1:
        return None
    function, (total,) = node.func, node.args
    added = isinstance(total, ast.BinOp) and isinstance(total.op, ast.Add)
    own = isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self"
    return function.attr if added and own else None


class Unnamed(ast.NodeTransformer):
    """Rewrites the calls of those norms. The norm is looked up first, then the left side."""

    def __init__(self, norms: tuple[str, ...]):
        self.norms = norms

    def visit_Call(self, node: ast.Call) -> ast.AST:
        norm = norm_of_sum(node)
        self.generic_visit(node)
        if norm not in self.norms:
            return node
        called = ast.copy_location(ast.Name(FUNCTION, ast.Load()), node)
        total = node.args[0]
        both = ast.copy_location(ast.Call(called, [node.func, total.left, total.right], []), node)
        first = ast.copy_location(ast.Constant(0), node)
        return ast.copy_location(ast.Subscript(both, first, ast.Load()), node)


@cache
def sums_of_code(forward: Callable, code: CodeType | None) -> tuple[Sum, ...]:
    """`code` is the forward's, which may be replaced in place."""
    definition = definition_of(forward)
    if definition is None:
        return ()
    whole = [*definition.body]
    _, bodies = divided(definition, sum_at)
    return tuple(one for body, after in bodies for one in sums_in(body, after, whole))


def passed_by(forward: Callable) -> tuple[str | None, list[ast.stmt]]:
    """The argument without which a forward passes a branch by that stands between a sum and its
    norm, and the statements that it then runs."""
    return branch_between.passed_by(definition_of(forward), sum_at)


def rewritten(
    forward: Callable,
    norms: tuple[str, ...],
    add_and_norm: Callable,
    before_sums: tuple[str, ...] = (),
    norm_and_add: Callable | None = None,
) -> FunctionType:
    """The forward in which `add_and_norm(norm, left, right)` gives (normed, sum) for those norms,
    and `norm_and_add(norm, x, residual)` the sum for those `before_sums` (`norm_add_source`).

    Raises Mismatch if it cannot be rebuilt.
    """
    code = getattr(innermost(forward), "__code__", None)
    definition = rewritten_definition(forward, norms, before_sums, code)
    names = {FUNCTION: add_and_norm, norm_add_source.FUNCTION: norm_and_add}
    return rebuilt(definition, forward, names)


@cache
def rewritten_definition(
    forward: Callable, norms: tuple[str, ...], before_sums: tuple[str, ...], code: CodeType | None
) -> ast.FunctionDef:
    definition, bodies = divided(Unnamed(norms).visit(definition_of(forward)), sum_at)
    for body, _ in bodies:
        # A sum that a norm takes is no sum of two names any more.
        fuse(body, norms)
        norm_add_source.fuse(body, before_sums)
    return definition


def fuse(body: list[ast.stmt], norms: tuple[str, ...]) -> None:
    """Rewrites the statements of those norms, wherever `body` has them."""
    for one in reversed(sums_in(body)):
        if one.norm not in norms:
            continue
        made, used = body[one.made], body[one.used]
        left, right = ast.unparse(made.value.left), ast.unparse(made.value.right)
        total = made.targets[0].id
        normed = f"{NORMED}_{one.made}"
        text = f"{normed}, {total} = {FUNCTION}(self.{one.norm}, {left}, {right})"
        call = first_call(used.value)
        name = ast.copy_location(ast.Name(normed, ast.Load()), call)
        body[one.made] = statement_at(text, made)
        body[one.used] = Replaced(call, name).visit(used)
        if isinstance(used, ast.Assign):
            body.insert(one.used + 1, statement_at(f"del {normed}", used))


class Replaced(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def sums_in(
    body: list[ast.stmt],
    after: list[ast.stmt] | None = None,
    whole: list[ast.stmt] | None = None,
) -> list[Sum]:
    """Of the statements of a forward, or of some of the `whole`, `after` which it runs those."""
    return [found for made in range(len(body)) if (found := sum_at(body, made, after, whole))]


def sum_at(
    body: list[ast.stmt],
    made: int,
    after: list[ast.stmt] | None = None,
    whole: list[ast.stmt] | None = None,
) -> Sum | None:
    """The sum that `body[made]` makes, if a norm takes it before anything else does."""
    total = target_of(body[made])
    value = getattr(body[made], "value", None)
    if total is None or not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Add):
        return None
    used = made + 1
    while used < len(body) and is_alias(body[used], total):
        used += 1
    if used == len(body) or not isinstance(body[used], (ast.Assign, ast.Return)):
        return None
    call = first_call(body[used].value)
    if call is None or call.keywords or len(call.args) != 1:
        return None
    function, argument = call.func, call.args[0]
    if not isinstance(argument, ast.Name) or argument.id != total:
        return None
    if not isinstance(function, ast.Attribute) or ast.unparse(function.value) != "self":
        return None
    names = {total, *map(target_of, body[made + 1 : used])}
    later = [*body[used:], *(after or [])]
    return Sum(made, used, function.attr, shown(later, names, call, whole or body))


def target_of(statement: ast.stmt) -> str | None:
    """The name that an assignment gives, if that is all it does."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target = statement.targets[0]
    return target.id if isinstance(target, ast.Name) else None


def is_alias(statement: ast.stmt, name: str) -> bool:
    """Whether it is `other = name`."""
    other, value = target_of(statement), getattr(statement, "value", None)
    return other not in (None, name) and isinstance(value, ast.Name) and value.id == name


def first_call(value: ast.expr | None) -> ast.Call | None:
    """What is evaluated first in an expression, but for names and attributes; None if that is not
    a call."""
    for node in evaluated(value):
        if isinstance(node, ast.Call):
            return node
        if not isinstance(node, (ast.Name, ast.Attribute, ast.Constant)):
            return None
    return None


def evaluated(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of an expression in the order of their evaluation, the whole last.

    Of those that evaluate some parts or none, or in another order, only themselves.
    """
    if isinstance(node, ast.Call):
        parts = [node.func, *node.args, *(named.value for named in node.keywords)]
    elif isinstance(node, ast.Attribute):
        parts = [node.value]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Tuple):
        parts = node.elts
    else:
        parts = []
    for part in parts:
        yield from evaluated(part)
    yield node


def outputs_of(definition: ast.FunctionDef) -> dict[str, int]:
    """How many values a forward takes from its children's calls, of those that give several."""
    found = {}
    for node in ast.walk(definition):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        function, target = node.value.func, node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(function, ast.Attribute):
            if ast.unparse(function.value) == "self":
                found[function.attr] = len(target.elts)
    return found
