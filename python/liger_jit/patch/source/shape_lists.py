"""A shape that is written as a list of a tensor's sizes, with 1 in some places:

[size if i == 1 or i == x.ndim - 1 else 1 for i, size in enumerate(x.shape)]
"""

import ast

ASKING = (
    ast.Compare, ast.BoolOp, ast.BinOp, ast.Name, ast.Constant, ast.Eq, ast.NotEq, ast.And, ast.Or,
    ast.Add, ast.Sub, ast.Load,
)  # fmt: skip
MOST_DIMENSIONS = 8


def tensor_of(node: ast.ListComp, definition: ast.FunctionDef) -> ast.Name | None:
    """The tensor whose sizes the list has, if it is such a one in that function and its last entry
    is always the size of the last dimension; None otherwise."""
    if len(node.generators) != 1 or node.generators[0].ifs or node.generators[0].is_async:
        return None
    target, source = node.generators[0].target, node.generators[0].iter
    names = [getattr(one, "id", None) for one in getattr(target, "elts", ())]
    if len(names) != 2 or not isinstance(node.elt, ast.IfExp):
        return None
    place, size = names
    chosen, other = node.elt.body, node.elt.orelse
    if getattr(chosen, "id", None) != size or getattr(other, "value", None) != 1:
        return None
    asked = source.args[0] if isinstance(source, ast.Call) and len(source.args) == 1 else None
    if asked is None or ast.unparse(source.func) != "enumerate" or source.keywords:
        return None
    tensor = asked.value if isinstance(asked, ast.Attribute) and asked.attr == "shape" else None
    if not isinstance(tensor, ast.Name) or not is_last_kept(
        node.elt.test, place, ranks_of(tensor.id, definition)
    ):
        return None
    return tensor


def ranks_of(tensor: str, definition: ast.FunctionDef) -> set[str]:
    """Names that hold how many dimensions a parameter has which is never another tensor."""
    nodes = list(ast.walk(definition))
    stored = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    if tensor in stored:
        return set()
    assigned = [one for one in nodes if isinstance(one, ast.Assign) and len(one.targets) == 1]
    ranks = [one.targets[0] for one in assigned if ast.unparse(one.value) == f"{tensor}.ndim"]
    return {one.id for one in ranks if isinstance(one, ast.Name) and stored.count(one.id) == 1}


def is_last_kept(test: ast.expr, place: str, ranks: set[str]) -> bool:
    """Whether a test of a place says yes to the last one, of however many dimensions."""
    if not all(isinstance(node, ASKING) for node in ast.walk(test)):
        return False
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    if not names <= {place, *ranks}:
        return False
    code = compile(ast.fix_missing_locations(ast.Expression(test)), "<test>", "eval")
    return all(
        eval(code, {"__builtins__": {}}, {**dict.fromkeys(ranks, rank), place: rank - 1})
        for rank in range(1, MOST_DIMENSIONS)
    )
