"""The source of an attention's forward that norms q and k and then rotates both.

    q = self.q_norm(<expression>).transpose(1, 2)        or without the transpose
    k = self.k_norm(<expression>).transpose(1, 2)
    ...                                                  that does not name q or k
    q, k = apply_rotary_pos_emb(q, k, cos, sin)

with nothing between that writes to a tensor in place, becomes, statement by statement,

    waits = may_wait(self.q_norm, self.k_norm)
    q = normed(waits, self.q_norm, <expression>).transpose(1, 2)
    k = normed(waits, self.k_norm, <expression>).transpose(1, 2)
    ...
    q, k = norm_and_rope(self, apply_rotary_pos_emb, waits, self.q_norm, self.k_norm, q, k, ...)

so that norms that are hooked are still called where they stand, and another rotation that stands
there by then as well. Where the rotation is the end of
an `if`, as in models that rotate in some of their layers, norms that waited are computed in an
`else`:

    else:
        q, k = norms_alone(waits, self.q_norm, self.k_norm, q, k)

So it is where the norms are of all heads of a token together, before it is divided into heads:

    q = self.q_norm(<expression>)
    k = self.k_norm(<expression>)
    q = q.view(<expression>).transpose(1, 2)
    k = k.view(<expression>).transpose(1, 2)

What does more with q or k before that, in an `if` of its own, is given them normed:

    if <expression>:
        q, k = norms_of_rows(waits, self.q_norm, self.k_norm, q, k)
        waits = None
        ...
"""

import ast
import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

from ..probe import Mismatch
from ..source.definition import compiled, innermost, rebuilt, statement_at
from ..source.effects import writes
from ..source.phrases import first_line

# Names that no forward has.
WAITS = "_liger_jit_waits"
MAY_WAIT = "_liger_jit_may_wait"
NORMED = "_liger_jit_normed"
NORM_AND_ROPE = "_liger_jit_norm_and_rope"
NORMS_ALONE = "_liger_jit_norms_alone"
NORMS_OF_ROWS = "_liger_jit_norms_of_rows"
FUNCTIONS = MAY_WAIT, NORMED, NORM_AND_ROPE, NORMS_ALONE, NORMS_OF_ROWS


@dataclass(frozen=True)
class Rewritten:
    """A forward before and after, how many statements there are up to the one of the rotation,
    which may be an `if`, and norms. full: whether these are of all heads of a token together.
    transposed: whether what a norm gives is transposed before the rotation."""

    own: ast.FunctionDef
    definition: ast.FunctionDef
    end: int
    pair: tuple[str, str]
    norms: tuple[str, str]
    full: bool
    transposed: bool

    @property
    def is_conditional(self) -> bool:
        return isinstance(self.own.body[self.end - 1], ast.If)

    @property
    def before_rotation(self) -> list[ast.stmt]:
        """What the class's own forward runs before it rotates."""
        *before, last = self.own.body[: self.end]
        if not isinstance(last, ast.If):
            return before
        return [*before, ast.copy_location(ast.Expr(last.test), last), *last.body[:-1]]

    def forward(self, own: FunctionType, functions: tuple[Callable, ...]) -> FunctionType:
        """The whole forward, with (may_wait, normed, norm_and_rope, norms_alone, norms_of_rows);
        `Mismatch` if it cannot be rebuilt."""
        return rebuilt(self.definition, own, self.named(functions))

    def head(
        self, own: FunctionType, functions: tuple[Callable, ...] = (), rotates: bool = True
    ) -> FunctionType:
        """The forward up to the rotation, returning q and k: the class's own without functions.
        Without its decorators. rotates: what decides an `if` around it."""
        definition = copy.deepcopy(self.definition if functions else self.own)
        end = self.end + 1 if functions else self.end
        last = definition.body[end - 1]
        if isinstance(last, ast.If):
            last.test = ast.copy_location(ast.Constant(rotates), last.test)
        definition.body[end:] = [statement_at(f"return {', '.join(self.pair)}", last)]
        return compiled(definition, innermost(own), self.named(functions))

    def named(self, functions: tuple[Callable, ...]) -> dict[str, Callable]:
        return dict(zip(FUNCTIONS, functions, strict=False))


@dataclass(frozen=True)
class NormOfName:
    """The call of the norm of what is rotated by a name, and its statement's place. whole: whether
    that gives nothing but the norm. heads: the place where that is divided into heads after it, or
    None. between: those of each `if` that does more with it before."""

    place: int
    call: ast.Call
    whole: bool
    heads: int | None = None
    between: tuple[int, ...] = ()


def rewrite(own: ast.FunctionDef, rotary: str) -> Rewritten:
    """Raises Mismatch unless the statements are there, in the function's own body."""
    definition = copy.deepcopy(own)
    body = definition.body
    rotations = [(i, rotated_pair(rotation_in(body[i]), rotary)) for i in range(len(body))]
    rotations = [(i, names) for i, names in rotations if names]
    if len(rotations) != 1:
        raise Mismatch(f"it has no single statement `q, k = {rotary}(q, k, cos, sin)`")
    (end, (q, k, cos, sin)) = rotations[0]
    of_q, of_k = (norm_of_name(name, (q, k), body[:end]) for name in (q, k))
    for name, found in ((q, of_q), (k, of_k)):
        if found is None:
            raise Mismatch(why_apart(name, body[:end], body[end + 1 :]))
    full = of_q.heads is not None
    if full != (of_k.heads is not None):
        raise Mismatch("one of its norms is of each head, and the other of all of a token together")
    first, between = min(of_q.place, of_k.place), {*of_q.between, *of_k.between}
    for place in between:
        if not max(of_q.place, of_k.place) < place < min(of_q.heads, of_k.heads):
            raise Mismatch(f"`{first_line(body[place])}` comes between its norms")
    inside = [body[end].test, *body[end].body[:-1]] if isinstance(body[end], ast.If) else []
    for one in inside:
        if {q, k} & names_in(one):
            raise Mismatch(f"`{first_line(one)}` comes between its norms and its rotation")
    waiting = [one for i, one in enumerate(body[:end]) if i >= first and i not in between]
    for one in (*(body[place] for place in between), *waiting, *inside):
        # By another name it may be what a norm was given, which is now read at the rotation.
        if (write := write_in(one, by_call=one in waiting)) is not None:
            raise Mismatch(f"`{write}` may write to what a norm is given, before the rotation")
    norms = of_q.call.func.attr, of_k.call.func.attr
    both = f"{WAITS}, self.{norms[0]}, self.{norms[1]}, {q}, {k}"
    new = f"{q}, {k} = {NORM_AND_ROPE}(self, {rotary}, {both}, {cos}, {sin})"
    if isinstance(body[end], ast.If):
        last = body[end].body[-1]
        body[end].body[-1] = statement_at(new, last)
        body[end].orelse = [statement_at(f"{q}, {k} = {NORMS_ALONE}({both})", last)]
    else:
        body[end] = statement_at(new, body[end])
    for place in between:
        inner = body[place].body
        texts = f"{q}, {k} = {NORMS_OF_ROWS}({both})", f"{WAITS} = None"
        inner[:0] = [statement_at(text, inner[0]) for text in texts]
    for call in (of_q.call, of_k.call):
        waits = ast.copy_location(ast.Name(WAITS, ast.Load()), call)
        call.args = [waits, call.func, *call.args]
        call.func = ast.copy_location(ast.Name(NORMED, ast.Load()), call)
    text = f"{WAITS} = {MAY_WAIT}(self.{norms[0]}, self.{norms[1]})"
    body.insert(first, statement_at(text, body[first]))
    transposed = full or not (of_q.whole and of_k.whole)
    return Rewritten(own, definition, end + 1, (q, k), norms, full, transposed)


def norm_of_name(name: str, both: tuple[str, str], before: list[ast.stmt]) -> NormOfName | None:
    """The last of the statements that name it, so that what comes between sees no unfinished value,
    is that of the norm; or that of the division into heads, and the norm comes before that."""
    places = [i for i, one in enumerate(before) if name in names_in(one)]
    if not places:
        return None
    *earlier, last = places
    if (call := norm_call(before[last], name)) is not None:
        return NormOfName(last, call, before[last].value is call)
    if not divides_into_heads(before[last], both, name):
        return None
    between = []
    for place in reversed(earlier):
        one = before[place]
        if isinstance(one, ast.If) and not one.orelse and not {*both} & names_in(one.test):
            between.append(place)
            continue
        call = norm_call(one, name)
        whole = call is not None and one.value is call
        return NormOfName(place, call, whole, last, tuple(between)) if whole else None
    return None


def rotation_in(statement: ast.stmt) -> ast.stmt:
    """The statement itself, or the last one of an `if` without an `else`."""
    conditional = isinstance(statement, ast.If) and not statement.orelse
    return statement.body[-1] if conditional else statement


def rotated_pair(statement: ast.stmt, rotary: str) -> tuple[str, ...] | None:
    """(q, k, cos, sin) of `q, k = rotary(q, k, cos, sin)`."""
    value = getattr(statement, "value", None)
    if not isinstance(statement, ast.Assign) or not isinstance(value, ast.Call):
        return None
    names = tuple(ast.unparse(argument) for argument in value.args)
    distinct = len(set(names)) == 4 and all(name.isidentifier() for name in names)
    if len(names) != 4 or not distinct:
        return None
    wanted = ast.parse(f"{names[0]}, {names[1]} = {rotary}({', '.join(names)})").body[0]
    return names if ast.dump(statement) == ast.dump(wanted) else None


def norm_call(statement: ast.stmt, name: str) -> ast.Call | None:
    """The call `self.norm(<expression>)` of `name = self.norm(<expression>)`, transposed or not."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    if ast.unparse(statement.targets[0]) != name:
        return None
    call = statement.value
    if isinstance(call, ast.Call) and [ast.unparse(one) for one in call.args] == ["1", "2"]:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "transpose":
            return None
        call = call.func.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    plain = len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Starred)
    return call if plain and ast.unparse(call.func.value) == "self" else None


def why_apart(name: str, before: list[ast.stmt], after: list[ast.stmt]) -> str:
    """Why the norm of what is rotated by that name is not in the rotation's kernel."""
    if any(norm_call(one, name) for one in after):
        return f"{name} is rotated before it is normed: each is a kernel of its own"
    return f"{name} is not what a norm gives when it is rotated"


def divides_into_heads(statement: ast.stmt, both: tuple[str, str], name: str) -> bool:
    """`name = name.view(<expression>).transpose(1, 2)`."""
    if not isinstance(statement, ast.Assign) or [ast.unparse(one) for one in statement.targets] != [
        name
    ]:
        return False
    views = [node for node in ast.walk(statement.value) if is_call_of(node, f"{name}.view")]
    if len(views) != 1 or {*both} & {one for part in views[0].args for one in names_in(part)}:
        return False
    return ast.unparse(statement.value) == f"{ast.unparse(views[0])}.transpose(1, 2)"


def is_call_of(node: ast.AST, function: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == function


def write_in(statement: ast.AST, by_call: bool) -> str | None:
    """The first of its statements that may write to a tensor in place. What it calls is read by
    `effects`, which lets nothing write but to a name that is new in the forward, and leaves out
    what settings turn off, which may be turned on later.

    by_call: whether what it calls counts as well.
    """
    for node in ast.walk(statement):
        called = by_call and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node, ast.AugAssign) or (called and writes(node.func.attr)):
            return first_line(node)
    return None


def names_in(statement: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
