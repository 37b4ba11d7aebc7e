"""The bodies of a forward, in which a norm may follow its sum: its own and those of its `if`s.

A branch that may do something between a sum and its norm, if the forward is given more, is taken
aside:

    x = residual + y
    if states is not None:                 with no `else`, and of no name but that
        ...
    residual = x
    z = self.mlp(self.norm(x))
    return residual + z

does what this does, in which a norm follows its sum where no states are given:

    if states is not None:
        x = residual + y
        ...
        residual = x                       and all that follows
    else:
        x = residual + y
        residual = x                       and all that follows
"""

import ast
import copy
from collections.abc import Callable

IsSum = Callable[[list[ast.stmt], int], object]
# Statements, and those that the forward may run after them.
Body = tuple[list[ast.stmt], list[ast.stmt]]


def divided(definition: ast.FunctionDef, is_sum: IsSum) -> tuple[ast.FunctionDef, list[Body]]:
    """The forward in that form if it has such a branch, and its bodies, but for what runs where
    states are given. `is_sum(body, i)`: whether `body[i]` is a sum that a norm takes next."""
    body = definition.body
    place = place_of_branch(definition, is_sum)
    if place is None:
        return definition, branches(body)
    before, made, branch, after = body[:place], body[place], body[place + 1], body[place + 2 :]
    branch.orelse = copy.deepcopy([made, *after])
    branch.body = [made, *branch.body, *after]
    definition.body = [*before, branch]
    return definition, branches(definition.body, aside=branch)


def branches(
    body: list[ast.stmt], after: list[ast.stmt] | None = None, aside: ast.If | None = None
) -> list[Body]:
    """The body itself and the branches of each `if` in it; of `aside` only what is its `else`."""
    after = after or []
    found = [(body, after)]
    for i, one in enumerate(body):
        if isinstance(one, ast.If):
            rest = [*body[i + 1 :], *after]
            parts = [one.orelse] if one is aside else [one.body, one.orelse]
            found += [inner for part in parts for inner in branches(part, rest)]
    return found


def passed_by(definition: ast.FunctionDef, is_sum: IsSum) -> tuple[str | None, list[ast.stmt]]:
    """The argument without which a forward does not run such a branch, None if it has none, and
    all statements but the branch."""
    body = definition.body
    place = place_of_branch(definition, is_sum)
    if place is None:
        return None, body
    return body[place + 1].test.left.id, [*body[: place + 1], *body[place + 2 :]]


def place_of_branch(definition: ast.FunctionDef, is_sum: IsSum) -> int | None:
    """Of the first sum before such a branch."""
    body, arguments = definition.body, left_out(definition)
    for i in range(len(body) - 2):
        if is_branch(body[i + 1], arguments) and is_sum([*body[: i + 1], *body[i + 2 :]], i):
            return i
    return None


def is_branch(statement: ast.stmt, arguments: set[str]) -> bool:
    """Whether it is one on `argument is not None`, without an `else`."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return False
    return ast.unparse(statement.test) in {f"{name} is not None" for name in arguments}


def left_out(definition: ast.FunctionDef) -> set[str]:
    """Arguments that are None unless they are given, and nothing else later: such a test may be
    asked before what stands before it."""
    arguments = definition.args
    placed = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(placed[len(placed) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    names = [node for node in ast.walk(definition) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    absent = {one.arg for one, value in pairs if getattr(value, "value", value) is None and value}
    return absent - stored
