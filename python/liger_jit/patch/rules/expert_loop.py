"""What a loop over experts, and a gate of theirs, may be made of.

Neither can be read to its end as other forwards are, because both pick what they compute by values
of the routing. So a loop must be that of `FORMS`, but for its names: it leaves out experts without
tokens and nothing else, and what it computes of an expert's tokens has no number, comparison or
part of a tensor in it. A gate must be made of the parts, the names and the small numbers of such
functions. Then there is no branch, bound or part that a probe of a few tokens would not meet.
"""

import ast
from collections.abc import Callable
from types import FunctionType

import torch
from torch.nn import functional

from ..probe import Mismatch
from ..source.definition import sure_definition
from ..source.phrases import first_line
from ..source.torchs_own import is_torchs
from .expert_gate import ALPHA, LIMITS

LOOP, GATE = "its loop over experts", "its gate"
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
ATTRIBUTES_OF_GATE = frozenset({"act_fn", ALPHA, *LIMITS})
PARTS_OF_GATE = (
    ast.Assign, ast.Return, ast.Call, ast.keyword, ast.Attribute, ast.Name, ast.Tuple,
    ast.Subscript, ast.Slice, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Mult, ast.Add, ast.USub,
    ast.Load, ast.Store,
)  # fmt: skip
NUMBERS = (None, 0, 1, 2)
# What global names stand for, and which functions of these are called.
LIBRARIES = {"torch": torch, "nn": torch.nn, "functional": functional, "F": functional}
FUNCTIONS = frozenset("zeros_like one_hot greater where linear clamp sigmoid silu gelu".split())

# A loop's statements, each in the ways in which it may stand there. Arithmetic on the tokens of an
# expert comes before its result is added.
FORMS = {
    "start": (
        "final = torch.zeros_like(states)",
        "final = torch.zeros_like(states, dtype=states.dtype, device=states.device)",
    ),
    "routing": (
        """with torch.no_grad():
            mask = functional.one_hot(indices, num_classes=classes).permute(2, 1, 0)
            hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()""",
        """with torch.no_grad():
            mask = functional.one_hot(indices, num_classes=classes)
            mask = mask.permute(2, 1, 0)
            hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()""",
    ),
    # for expert in hit:
    "first": ("expert = expert[0]",),
    "skip": (
        """if expert == self.num_experts:
            continue""",
    ),
    "tokens": ("slots, tokens = torch.where(mask[expert])",),
    "add": ("final.index_add_(0, tokens, part)",),
    "end": ("return final",),
}
OVER = (ast.Name("expert"), ast.Name("hit"))
# What those names stand for: local ones, each for one thing, and these.
LOCAL = frozenset("states indices weights final mask hit expert slots tokens".split())
SPELLINGS = {
    "functional": ("torch.nn.functional", "nn.functional", "F"),
    "classes": ("self.num_experts", "self.num_experts + 1"),
}
GLOBAL = frozenset({"self", "torch", "nn", "F"})
# What a part is, beside a name for one.
PARTS = (
    "states[tokens]",
    "weights[tokens, slots, None]",
    *(f"self.{name}[expert]" for name in (*WEIGHTS, *BIASES)),
    "functional.linear(part, part)",
    "functional.linear(part, part, part)",
    "part @ part",
    "part * part",
    "part + part",
    "part.chunk(2, dim=-1)",
    "part.chunk(2, -1)",
    "part.to(states.dtype)",
    "part.to(final.dtype)",
    "self.act_fn(part)",
    "self._apply_gate(part)",
)
PARSED = {
    form: ast.parse(form).body[0]
    for form in (*PARTS, *(form for forms in FORMS.values() for form in forms))
}


def names_of_loop(loop: Callable) -> frozenset[str]:
    """The names in a class's loop over its experts; Mismatch if it is made of anything else."""
    definition = source_of(loop)
    given = definition.args
    arguments = [one.arg for one in ast.walk(given) if isinstance(one, ast.arg)]
    if len(given.args) != 4 or len(arguments) != 4 or arguments[0] != "self":
        refuse(LOOP, ast.unparse(given))
    _Loop(arguments[1:]).check(statements_of(definition))
    return names_in(loop, NAMES_OF_LOOP, LOOP)


class _Loop:
    """names: local ones by those of `FORMS`. parts: those of an expert's tokens."""

    def __init__(self, given: list[str]):
        self.names = dict(zip(("states", "indices", "weights"), given, strict=True))
        self.parts: set[str] = set()

    def check(self, body: list[ast.stmt]) -> None:
        if [type(one) for one in body] != [ast.Assign, ast.With, ast.For, ast.Return]:
            refuse(LOOP, "other statements than one that starts, a routing, a loop and a return")
        start, routing, loop, end = body
        self.expect("start", start)
        self.expect("routing", routing)
        over = all(map(self.is_like, OVER, (loop.target, loop.iter)))
        if not over or loop.orelse or len(loop.body) < 4:
            refuse(LOOP, first_line(loop))
        first, skip, tokens, *made, add = loop.body
        self.expect("first", first)
        self.expect("skip", skip)
        self.expect("tokens", tokens)
        for one in made:
            self.make(one)
        self.expect("add", add)
        self.expect("end", end)

    def expect(self, kind: str, one: ast.stmt) -> None:
        before = self.names
        for form in FORMS[kind]:
            self.names = dict(before)
            if self.is_like(PARSED[form], one) and self.are_apart():
                return
        refuse(LOOP, first_line(one))

    def are_apart(self) -> bool:
        found = list(self.names.values())
        return len(set(found)) == len(found) and not GLOBAL.intersection(found)

    def make(self, one: ast.stmt) -> None:
        """A name, or several, for a part."""
        targets = one.targets if isinstance(one, ast.Assign) else []
        if len(targets) != 1 or not self.is_part(one.value):
            refuse(LOOP, first_line(one))
        names = targets[0].elts if isinstance(targets[0], ast.Tuple) else targets
        taken = GLOBAL.union(self.names.values())
        if not all(isinstance(name, ast.Name) and name.id not in taken for name in names):
            refuse(LOOP, first_line(one))
        self.parts |= {name.id for name in names}

    def is_part(self, node: object) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.parts
        return any(self.is_like(PARSED[form].value, node) for form in PARTS)

    def is_like(self, form: object, node: object) -> bool:
        """Whether a part of the source is of a form, name by name."""
        if isinstance(form, list):
            alike = isinstance(node, list) and len(form) == len(node)
            return alike and all(map(self.is_like, form, node))
        if isinstance(form, ast.Name) and form.id in LOCAL:
            return isinstance(node, ast.Name) and self.stands_for(form.id, node.id)
        if isinstance(form, ast.Name) and form.id in SPELLINGS:
            return isinstance(node, ast.expr) and ast.unparse(node) in SPELLINGS[form.id]
        if isinstance(form, ast.Name) and form.id == "part":
            return self.is_part(node)
        if type(form) is not type(node):
            return False
        if not isinstance(form, ast.AST):
            return form == node
        return all(self.is_like(getattr(form, one), getattr(node, one)) for one in form._fields)

    def stands_for(self, name: str, found: str) -> bool:
        return self.names.setdefault(name, found) == found


def names_of_gate(gate: Callable) -> frozenset[str]:
    """The names in its `_apply_gate`; Mismatch if it is made of anything but smooth arithmetic and
    clamps, on what its module holds by known names."""
    check_parts(source_of(gate))
    if strange := sorted(attributes_of(gate) - ATTRIBUTES_OF_GATE):
        refuse(GATE, f"self.{strange[0]}")
    return names_in(gate, NAMES_OF_GATE, GATE)


def attributes_of(function: Callable) -> frozenset[str]:
    """The names that a loop or a gate reads of its module; Mismatch if it does more with that."""
    definition = source_of(function)
    nodes = [node for one in definition.body for node in ast.walk(one)]
    found = [one for one in nodes if isinstance(one, ast.Attribute) and is_self(one.value)]
    first = definition.args.args[0].arg if definition.args.args else ""
    if first != "self" or len(found) != sum(map(is_self, nodes)):
        raise Mismatch(f"{function.__qualname__} reads more of its module than attributes")
    return frozenset(one.attr for one in found)


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def source_of(function: Callable) -> ast.FunctionDef:
    if type(function) is not FunctionType:
        raise Mismatch(f"{function!r} is no Python function, and cannot be read")
    if hasattr(function, "__wrapped__"):
        raise Mismatch(f"{function.__qualname__} is decorated, and its decorator is not read")
    return sure_definition(function)


def statements_of(definition: ast.FunctionDef) -> list[ast.stmt]:
    return definition.body[1:] if ast.get_docstring(definition) else definition.body


def check_parts(gate: ast.FunctionDef) -> None:
    for node in (node for one in statements_of(gate) for node in ast.walk(one)):
        if not isinstance(node, PARTS_OF_GATE):
            refuse(GATE, first_line(node) if isinstance(node, (ast.stmt, ast.expr)) else str(node))
        if isinstance(node, ast.Constant) and node.value not in (*NUMBERS, Ellipsis):
            refuse(GATE, first_line(node))
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if not all(
                isinstance(one, (ast.Name, ast.Tuple, ast.Store)) for one in ast.walk(target)
            ):
                refuse(GATE, first_line(node))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "clamp":
            if not all(map(is_bound, [*node.args, *(one.value for one in node.keywords)])):
                refuse(GATE, first_line(node))


def is_bound(node: ast.expr) -> bool:
    """One of the module's limits, or none."""
    limits = [f"self.{name}" for name in LIMITS]
    return ast.unparse(node) in ("None", *limits, *(f"-{limit}" for limit in limits))


def names_in(function: FunctionType, known: frozenset[str], what: str) -> frozenset[str]:
    """The names in a function's code, but for its local ones."""
    code = function.__code__
    nested = [one.co_name for one in code.co_consts if hasattr(one, "co_code")]
    names = frozenset((*code.co_names, *code.co_freevars, *nested))
    if strange := sorted(names - known):
        raise Mismatch(f"{what} has names that a probe may not see: {strange}")
    scope = function.__globals__
    for name in sorted(names & scope.keys()):
        if scope[name] is not LIBRARIES.get(name):
            raise Mismatch(f"{what} calls something {name} that is not torch's")
    for name in sorted(names & FUNCTIONS):
        for library in (torch, functional):
            if not is_torchs(getattr(library, name, None), name) and hasattr(library, name):
                raise Mismatch(f"{what} calls {name}, and torch's is another function now")
    return names


def refuse(what: str, part: str) -> None:
    raise Mismatch(f"{what} has a part that a probe may not see the whole of: {part}")
