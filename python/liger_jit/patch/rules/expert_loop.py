"""What a loop over experts, and a gate of theirs, may be made of.

Neither can be read to its end as other forwards are, because both pick what they compute by values
of the routing. So each must be made of the statements, the names and the small numbers of such
functions and of no others: then there is no branch, bound or part of a tensor that a probe of a few
tokens would not meet.
"""

import ast
from collections.abc import Callable
from types import FunctionType

from ..probe import Mismatch
from ..source.definition import sure_definition
from ..source.phrases import first_line

WEIGHTS = ("gate_up_proj", "down_proj")
BIASES = ("gate_up_proj_bias", "down_proj_bias")
NAMES_OF_BOTH = "torch nn functional F chunk act_fn to dtype".split()
NAMES_OF_LOOP = frozenset(
    "no_grad zeros_like device one_hot num_experts permute greater sum nonzero where linear "
    "index_add_ _apply_gate".split()
).union(NAMES_OF_BOTH, WEIGHTS, BIASES)
NAMES_OF_GATE = frozenset("clamp sigmoid silu gelu limit swiglu_limit alpha".split()).union(
    NAMES_OF_BOTH
)
PARTS_OF_GATE = (
    ast.Assign, ast.Return, ast.Call, ast.keyword, ast.Attribute, ast.Name, ast.Tuple,
    ast.Subscript, ast.Slice, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Mult, ast.Add, ast.USub,
    ast.Load, ast.Store,
)  # fmt: skip
PARTS_OF_LOOP = (
    *(one for one in PARTS_OF_GATE if one is not ast.Slice),
    ast.MatMult, ast.With, ast.withitem, ast.For, ast.Expr,
)  # fmt: skip
NUMBERS = (None, 0, 1, 2)


def names_of_loop(loop: Callable) -> frozenset[str]:
    """The names in a class's loop over its experts; Mismatch if it is made of anything else."""
    definition = source_of(loop)
    # Of what an expert without tokens is left out by, and nothing else.
    skips = [one for one in ast.walk(definition) if isinstance(one, ast.If)]
    for one in skips:
        if not is_skip_of_absent(one):
            refuse("its loop over experts", first_line(one))
    within = {id(node) for one in skips for node in ast.walk(one)}
    check_parts(definition, PARTS_OF_LOOP, "its loop over experts", within)
    return names_in(loop, NAMES_OF_LOOP, "its loop over experts")


def names_of_gate(gate: Callable) -> frozenset[str]:
    """The names in its `_apply_gate`; Mismatch if it is made of anything but smooth arithmetic and
    clamps."""
    check_parts(source_of(gate), PARTS_OF_GATE, "its gate", set())
    return names_in(gate, NAMES_OF_GATE, "its gate")


def source_of(function: Callable) -> ast.FunctionDef:
    if type(function) is not FunctionType:
        raise Mismatch(f"{function!r} is no Python function, and cannot be read")
    return sure_definition(function)


def check_parts(definition: ast.FunctionDef, parts: tuple, what: str, checked: set[int]) -> None:
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    for node in (node for statement in body for node in ast.walk(statement)):
        if id(node) in checked:
            continue
        if not isinstance(node, parts):
            refuse(what, first_line(node) if isinstance(node, (ast.stmt, ast.expr)) else str(node))
        if isinstance(node, ast.Constant) and node.value not in (*NUMBERS, Ellipsis):
            refuse(what, first_line(node))
        written = node.targets if isinstance(node, ast.Assign) else []
        for target in written:
            if not all(
                isinstance(one, (ast.Name, ast.Tuple, ast.Store)) for one in ast.walk(target)
            ):
                refuse(what, first_line(node))


def is_skip_of_absent(one: ast.If) -> bool:
    """`if expert == self.num_experts: continue`, for the index that stands for no expert."""
    if one.orelse or [type(statement) for statement in one.body] != [ast.Continue]:
        return False
    test = one.test
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and [type(op) for op in test.ops] == [ast.Eq]
        and ast.unparse(test.comparators[0]) == "self.num_experts"
    )


def names_in(function: FunctionType, known: frozenset[str], what: str) -> frozenset[str]:
    """The names in a function's code, but for its local ones."""
    code = function.__code__
    nested = [one.co_name for one in code.co_consts if hasattr(one, "co_code")]
    names = frozenset((*code.co_names, *code.co_freevars, *nested))
    if strange := sorted(names - known):
        raise Mismatch(f"{what} has names that a probe may not see: {strange}")
    return names


def refuse(what: str, part: str) -> None:
    raise Mismatch(f"{what} has a part that a probe may not see the whole of: {part}")
