"""What a forward does with a sum after its norm: whether that could tell two nodes from one.

Fused, sum and norm are two results of one node, so a gradient that is asked for at the sum itself,
by a hook say, lacks the part that comes through the norm. Arithmetic on the sum asks for none.
Whatever else is done with it, or with another name of it, is taken for something that might.
"""

import ast
from collections.abc import Iterator

# What says nothing of a graph, and methods that give another tensor, of no other values.
TOLD = ("shape", "dtype", "device", "ndim")
METHODS = ("size", "dim", "reshape", "view")
# Functions that reach a variable without naming it.
FRAMES = ("locals", "vars", "dir", "eval", "exec")
# What may run later than where it stands, when a name means something else.
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)


def shown(later: list[ast.stmt], names: set[str], call: ast.Call, whole: list[ast.stmt]) -> str:
    """The text of what could tell, or "". The sum has those names before the `later` statements,
    in the first of which `call` is that of its norm. whole: all statements of the forward."""
    ever = names | aliases_in(later, names)
    for node in (node for statement in whole for node in ast.walk(statement)):
        if is_out_of_sight(node, ever):
            return text_of(node)
    names = set(names)
    for statement in later:
        names |= aliases_in([statement], names)
        for node in telling(statement, names, call):
            return text_of(node)
        names -= renewed(statement, names)
    return ""


def text_of(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def is_out_of_sight(node: ast.AST, names: set[str]) -> bool:
    """Whether a name may be read through this where and when it does not stand."""
    if isinstance(node, SCOPES):
        return any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(node))
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return not names.isdisjoint(node.names)
    return isinstance(node, ast.Name) and node.id in FRAMES


def aliases_in(statements: list[ast.stmt], names: set[str]) -> set[str]:
    """Names that those get there, at any depth and in any order."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    pairs = [
        (node.targets[0].id, node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and is_alias(node, node.value)
    ]
    found: set[str] = set()
    while more := {new for new, old in pairs if old.id in names | found} - found - names:
        found |= more
    return found


def is_alias(node: ast.Assign, value: ast.expr) -> bool:
    """Whether it gives what one name means to one other."""
    one = len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    return one and isinstance(value, ast.Name)


def renewed(statement: ast.stmt, names: set[str]) -> set[str]:
    """Names that surely mean something else after it."""
    if not isinstance(statement, ast.Assign):
        return set()
    if isinstance(statement.value, ast.Name) and statement.value.id in names:
        return set()
    nodes = [node for target in statement.targets for node in ast.walk(target)]
    return {node.id for node in nodes if is_name(node, names, ast.Store)}


def telling(node: ast.AST, names: set[str], but: ast.Call) -> Iterator[ast.AST]:
    """The innermost parts that do more with one of those names than is allowed, `but` left out."""
    if node is but:
        return
    if isinstance(node, ast.AugAssign) and is_name(node.target, names, ast.Store):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.Call) and child is node.func and is_method(child):
            child = child.value
            if is_name(child, names):
                continue
        if not is_name(child, names):
            yield from telling(child, names, but)
        elif not allows(node, child):
            yield node


def allows(node: ast.AST, child: ast.Name) -> bool:
    """Whether what `node` does with that name makes something new, or another name."""
    if isinstance(node, ast.Assign):
        return is_alias(node, child)
    if isinstance(node, ast.Attribute):
        return node.attr in TOLD and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Compare):
        return all(isinstance(one, (ast.Is, ast.IsNot)) for one in node.ops)
    return isinstance(node, (ast.BinOp, ast.AugAssign))


def is_method(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in METHODS


def is_name(node: ast.AST, names: set[str], context: type = ast.Load) -> bool:
    return isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, context)
