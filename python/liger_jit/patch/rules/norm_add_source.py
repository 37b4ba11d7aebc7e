"""The source of a forward that norms what a block gives and adds that to the residual.

    x = self.norm(y)
    x = residual + x

becomes

    x = norm_and_add(self.norm, y, residual, False)

with whether the norm's result is the left one: of two orders in memory the sum takes that one's.
Nobody sees what the norm gives: its name means the sum in the next statement.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import CodeType

from ..source.definition import definition_of, innermost, statement_at
from .branch_between import branches

# A name that no forward has.
FUNCTION = "_liger_jit_norm_and_add"


@dataclass(frozen=True)
class NormThenSum:
    """In a forward's own statements: where the norm is called, the sum being the next; the norm's
    name, the names of what it is given and of what is added, and whether its result is left."""

    normed: int
    norm: str
    given: str
    residual: str
    is_left: bool


def norms_before_sums(forward: Callable) -> tuple[str, ...]:
    """The children whose results a forward does nothing with but add them to something."""
    code = getattr(innermost(forward), "__code__", None)
    return tuple(one.norm for one in found_in_code(forward, code))


@cache
def found_in_code(forward: Callable, code: CodeType | None) -> tuple[NormThenSum, ...]:
    """`code` is the forward's, which may be replaced in place."""
    definition = definition_of(forward)
    bodies = branches(definition.body) if definition else []
    return tuple(one for body, _ in bodies for one in found_in(body))


def found_in(body: list[ast.stmt]) -> list[NormThenSum]:
    return [found for i in range(len(body) - 1) if (found := found_at(body, i))]


def found_at(body: list[ast.stmt], place: int) -> NormThenSum | None:
    name, call = named_value(body[place])
    total, value = named_value(body[place + 1])
    if name is None or name != total or not isinstance(call, ast.Call):
        return None
    function = call.func
    if not isinstance(function, ast.Attribute) or ast.unparse(function.value) != "self":
        return None
    if call.keywords or len(call.args) != 1 or not isinstance(call.args[0], ast.Name):
        return None
    if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Add):
        return None
    sides = [one.id if isinstance(one, ast.Name) else None for one in (value.left, value.right)]
    if None in sides or sides.count(name) != 1:
        return None
    left = sides.index(name) == 0
    return NormThenSum(place, function.attr, call.args[0].id, sides[left], left)


def named_value(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """(name, value) of an assignment of one value to one name."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None, None
    target = statement.targets[0]
    return (target.id, statement.value) if isinstance(target, ast.Name) else (None, None)


def fuse(body: list[ast.stmt], norms: tuple[str, ...]) -> None:
    """Rewrites the statements of those norms, wherever `body` has them."""
    for one in reversed(found_in(body)):
        if one.norm in norms:
            (name, _), place = named_value(body[one.normed]), one.normed
            given = f"self.{one.norm}, {one.given}, {one.residual}, {one.is_left}"
            body[place : place + 2] = [statement_at(f"{name} = {FUNCTION}({given})", body[place])]
