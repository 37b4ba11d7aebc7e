"""The rule for rotary embeddings: attention modules that call a rotary function of their file.

The function is a module global, shared by every model of the family, so it is not rebound. Each
attention instance gets its class's forward compiled anew, in which the call goes to our function:
it reaches no other model, and holds when activation checkpointing runs the forward again. All other
globals are those of the file, as they are at each call.
"""

import ast
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache, partial
from types import FunctionType

import torch
from torch import Tensor, nn

from ...meta_calls import MetaCall
from ..autocasting import have_one_dtype
from ..guard import Guard, guard_of_rewritten, is_hooked, is_usable
from ..installed import stood_back, switched
from ..modes import WATCHED, is_watched
from ..probe import (
    HALVES,
    LONG,
    OUTLYING,
    TINY,
    Mismatch,
    assert_same,
    compute_dtype,
    live_device,
    random,
)
from ..rule import CompoundRule, Parts, Proof, Refusal, Rule, own_class_forward
from ..source.definition import innermost, rebuilt, sure_definition
from ..source.reading import read
from . import rotary_complex, rotary_rows
from .memory_order import has_rows
from .rotary_form import FORMS, USUAL, RotaryForm
from .rotary_layouts import Layouts, are_columns, takes_shared, with_shared

PAIR = ("q", "k", "cos", "sin", "unsqueeze_dim")
# Nothing is done with the positions.
POSITIONED = ("q", "k", "cos", "sin", "position_ids", "unsqueeze_dim")
ANOTHER = "another function stands for its rotary function by the time it is called"
SINGLE = ("x", "cos", "sin", "unsqueeze_dim")
# What a name begins with that no forward has, by which the rewritten one finds our function.
FUNCTION = "_liger_jit_"
# Of heads, beside the module's own: what is proved is not asked for its size again.
OTHER_SIZES = (2, 96, 256)


def rotary_names(module: nn.Module) -> list[str]:
    """Names of rotary functions that the class's forward calls as globals."""
    function = innermost(own_class_forward(module))
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    # A name that the forward binds itself, as by an import, is no global of its file.
    return [
        name
        for name in code.co_names
        if "apply" in name
        and "rotary" in name
        and name not in (*code.co_varnames, *code.co_cellvars)
        and callable(function.__globals__.get(name))
    ]


def is_rotary_attention(module: nn.Module) -> bool:
    return bool(rotary_names(module))


def sizes_of(module: nn.Module) -> tuple[int, int, int, int]:
    """(query heads, key heads, head size, rotated part), as the module's settings tell them."""
    settings = getattr(module, "config", None)
    heads = getattr(settings, "num_attention_heads", None) or 2
    size = getattr(module, "head_dim", None) or getattr(settings, "head_dim", None) or 64
    keys = getattr(settings, "num_key_value_heads", None) or heads
    factor = getattr(settings, "partial_rotary_factor", None)
    factor = (getattr(settings, "rope_parameters", None) or {}).get("partial_rotary_factor", factor)
    return heads, keys, size, int(size * (factor or 1.0)) // 2 * 2


def group(module: nn.Module) -> Hashable:
    device = live_device(module)
    return (own_class_forward(module), sizes_of(module), compute_dtype(module), str(device))


@dataclass(frozen=True)
class RotaryFunction:
    """The rotary function of a file, by this name. pair: whether it takes q and k. form: what it
    was proved to compute. wide: whether heads of 16 bits keep their dtype where the tables are of
    float32. rows: whether it is one of heads of one sequence (`rotary_rows`). factors: of one by
    complex factors, how it takes them (`rotary_complex`). layouts: those that it takes beside the
    usual ones."""

    name: str
    original: Callable
    pair: bool
    form: RotaryForm = USUAL
    wide: bool = False
    rows: bool = False
    factors: rotary_complex.Factors | None = None
    layouts: Layouts = Layouts()

    @property
    def is_complex(self) -> bool:
        return rotary_complex.is_complex(parameter_names(self.original))

    @property
    def is_usual(self) -> bool:
        """Whether it is what larger operators have as well."""
        positioned = parameter_names(self.original) == POSITIONED
        return self.form == USUAL and not (self.rows or positioned) and self.factors is None

    @property
    def part(self) -> bool:
        """Whether it rotates a part of each head where the tables are for less than a head."""
        return takes_part(self.original, self.pair, self.form)

    @property
    def replacement(self) -> Callable:
        """Our function, with the original's signature after the module that calls it and what has
        the original's name at the call. Where that is another, and for what no operator takes, it
        calls that, which the module counts if it is patched."""
        return or_own(self.original, self._taken)

    @property
    def _taken(self) -> Callable:
        """None for what no operator takes."""
        if self.rows:
            return rotary_rows.rotate_batches if self.layouts.shared else rotary_rows.rotate_rows
        if self.factors is not None:
            return rotary_complex.rotary_by_factors(self.original, self.factors)
        return rotary_function(self.original, self.pair, self.form, self.wide, self.layouts)


def functions_of_forward(module: nn.Module) -> list[RotaryFunction]:
    """Those that the class's forward calls, of no known form yet."""
    scope = innermost(own_class_forward(module)).__globals__
    functions = []
    for name in rotary_names(module):
        parameters = parameter_names(scope[name])
        rows = parameters == rotary_rows.PARAMETERS
        pair = rows or parameters in (PAIR, POSITIONED)
        functions.append(RotaryFunction(name, scope[name], pair, rows=rows))
    return functions


def group_of_function(place: int, module: nn.Module) -> Hashable:
    """Several forwards of a file may call one function."""
    places = compute_dtype(module), str(live_device(module))
    return functions_of_forward(module)[place], sizes_of(module), places


def prove_formula(place: int, module: nn.Module) -> RotaryFunction | Refusal:
    """Of a function that was read before: see `guard_of_rotation`."""
    function = functions_of_forward(module)[place]
    _, _, size, rotated = sizes_of(module)
    if not rotated:
        return Refusal(f"it rotates nothing of a head of {size}")
    try:
        if function.rows:
            rotary_rows.check_formula(function.original, size, OTHER_SIZES)
            shared = rotary_rows.takes_batches(function.original, size)
            return replace(function, layouts=Layouts(shared=shared))
        if function.is_complex:
            found = rotary_complex.factors_of(function.original, size, OTHER_SIZES)
            return replace(function, factors=found)
    except Mismatch as mismatch:
        return Refusal(f"{function.name}: {mismatch}")
    reasons = []
    for form in FORMS:
        one = replace(function, form=form)
        try:
            check_form(one, size)
        except Mismatch as mismatch:
            reasons.append(f"{function.name}: {mismatch}")
        else:
            one = replace(one, wide=keeps_heads_dtype(one, size))
            return replace(one, layouts=layouts_of(one, size))
    return Refusal(reasons[0])


def check_form(function: RotaryFunction, size: int) -> None:
    """`Mismatch` unless the function is of its form for heads of all sizes."""
    formula = replacement_formula(function.pair, function.form)
    # Full and partial width: a function that treats the rest otherwise is of another form.
    takes_part(function.original, function.pair, function.form)
    # A half of one entry would be broadcast to all of a small head.
    part = max(size, 8)
    for widths in ((size, size), (part, part // 4 * 2)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            prove_function(function, formula, *widths, dtype=dtype)
        for more in (
            {"tokens": 1},
            {"tokens": 37, "scale": OUTLYING},
            {"scale": TINY},
            {"tokens": LONG, "sequences": 1},
        ):
            prove_function(function, formula, *widths, **more)
    for other in OTHER_SIZES:
        prove_function(function, formula, other, other)
    prove_function(function, formula, size, size, heads_at=2)


def keeps_heads_dtype(function: RotaryFunction, size: int) -> bool:
    """Whether it turns heads of 16 bits by tables of float32 and then gives their dtype."""
    formula = replacement_formula(function.pair, function.form)
    part = max(size, 8)
    try:
        for widths in ((size, size), (part, part // 4 * 2), *((one, one) for one in OTHER_SIZES)):
            for dtype in HALVES:
                prove_function(function, formula, *widths, dtype=dtype, of_tables=torch.float32)
        prove_function(
            function, formula, size, size, dtype=HALVES[0], of_tables=torch.float32, heads_at=2
        )
    except Mismatch:
        return False
    return True


def layouts_of(function: RotaryFunction, size: int) -> Layouts:
    """Of one whose form is known."""
    original, pair, form = function.original, function.pair, function.form
    more = [None] if parameter_names(original) == POSITIONED else []
    formula = replacement_formula(pair, form)
    shared = takes_shared(original, formula, not pair, more, size, form.table_parts, function.wide)
    found = Layouts(shared=shared, columns=gathers_columns(function, size))
    return replace(found, alone=pair and turns_alone(replace(function, layouts=found), size))


def turns_alone(function: RotaryFunction, size: int) -> bool:
    """Whether it gives q alone, turned as else, where k is left out."""
    original = function.original
    if isinstance(original, nn.Module):
        return False
    if inspect.signature(original).parameters["k"].default is not None:
        return False

    def alone(x, cos, sin, unsqueeze_dim=1):
        return original(x, cos=cos, sin=sin, unsqueeze_dim=unsqueeze_dim)

    one = RotaryFunction(function.name, alone, False, function.form)
    try:
        check_form(one, size)
    except Mismatch:
        return False
    one = replace(one, wide=keeps_heads_dtype(one, size))
    one = replace(one, layouts=layouts_of(one, size))
    return all(
        getattr(one, name) == getattr(function, name) for name in ("wide", "part", "layouts")
    )


def gathers_columns(function: RotaryFunction, size: int) -> bool:
    """Whether it gives rows where heads [B, H, T, D] lie in columns, whatever part it rotates."""
    part = max(size, 8)
    heads = [torch.zeros(2, count, part, 5, device="cpu").transpose(2, 3) for count in (3, 1)]
    for width in (part, part // 4 * 2):
        table = torch.zeros(2, 5, width // function.form.table_parts, device="cpu")
        try:
            turned = function.original(*heads[: 1 + function.pair], table, table)
        except Exception:
            return False
        if not all(x.is_contiguous() for x in (turned if function.pair else (turned,))):
            return False
    return True


def confirm_operator(
    place: int, module: nn.Module, function: RotaryFunction
) -> RotaryFunction | Refusal:
    heads, keys, size, rotated = sizes_of(module)
    where = live_device(module), compute_dtype(module)
    candidate = partial(function.replacement, module, function.original)
    try:
        if function.rows:
            rotary_rows.check(function.original, candidate, size, *where)
        elif function.factors is not None:
            rotary_complex.check(function.original, candidate, function.factors, size, *where)
        else:
            tables = {where[1], torch.float32} if function.wide else {where[1]}
            for of_tables in tables:
                sizes = size, rotated, *where, (heads, keys)
                prove_function(function, candidate, *sizes, of_tables=of_tables)
    except Mismatch as mismatch:
        return Refusal(f"{function.name}: {mismatch}")
    return function


@cache
def rule_of_function(place: int) -> Rule[RotaryFunction]:
    """Of the function that a forward calls at that place. They share their answers."""
    parts = (partial(one, place) for one in (group_of_function, prove_formula, confirm_operator))
    return Rule("rotary_function", (), is_rotary_attention, *parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class RotationProof(Proof):
    """Of an attention's forward that calls these functions, each of which was proved."""

    functions: tuple[RotaryFunction, ...]


def prove(module: nn.Module, proved: Parts) -> RotationProof | Refusal:
    functions, own = functions_of_forward(module), own_class_forward(module)
    for function in functions:
        parameters = parameter_names(function.original)
        known = parameters in (PAIR, POSITIONED, SINGLE, rotary_rows.PARAMETERS)
        if not known and not function.is_complex:
            return Refusal(f"{function.name} takes ({', '.join(parameters)})")
    try:
        # Read before they are run: what has effects would have them on what it shares with others.
        guard = guard_of_rotation(own, functions)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    answers = [proved(rule_of_function(place), module) for place in range(len(functions))]
    if refused := [one for one in answers if isinstance(one, Refusal)]:
        return refused[0]
    try:
        forward = rewritten(own, {one.name: one.replacement for one in answers})
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    meta = meta_call(module, answers[0])
    forwards = switched(forward, guard), guard, forward
    return RotationProof("rope", *forwards, meta, functions=tuple(answers))


def confirm(module: nn.Module, proof: RotationProof, confirmed: Parts) -> RotationProof | Refusal:
    answers = [confirmed(rule_of_function(place), module) for place in range(len(proof.functions))]
    return next((one for one in answers if isinstance(one, Refusal)), proof)


def rewritten(own: FunctionType, replacements: dict[str, Callable]) -> FunctionType:
    """The class's forward, which calls replacements wherever it called these globals, with itself
    and the global before all else; `Mismatch` if it cannot be rebuilt."""
    definition = sure_definition(own)
    called = {node.func: node for node in ast.walk(definition) if isinstance(node, ast.Call)}
    module = next(iter(inspect.signature(own).parameters))
    for node in list(ast.walk(definition)):
        if isinstance(node, ast.Name) and node.id in replacements:
            if node not in called:
                raise Mismatch(f"its forward does more with {node.id} than call it")
            names = [ast.Name(name, ast.Load()) for name in (module, node.id)]
            called[node].args[:0] = [ast.copy_location(name, node) for name in names]
            node.id = FUNCTION + node.id
    return rebuilt(definition, own, {FUNCTION + name: one for name, one in replacements.items()})


def guard_of_rotation(own: FunctionType, functions: list[RotaryFunction]) -> Guard:
    """The attention's forward, the rotary functions that its file has, and all that these run.

    Raises Mismatch if one of them cannot be watched: see `reading`.
    """
    names, run, defined = [], {}, []
    for function in functions:
        original, kind = function.original, type(function.original)
        names.append((innermost(own).__globals__, function.name, original))
        try:
            if isinstance(original, nn.Module):
                found = read(original, kind.forward)
                names.append((original.__dict__, "forward", None))
                defined.append((kind, "forward", kind.forward))
            else:
                found = read(None, original)
        except Mismatch as mismatch:
            raise Mismatch(f"{function.name}: {mismatch}") from mismatch
        own_parts = (found.values, found.callables, found.tensors, found.called, found.made)
        if any((*own_parts, found.methods, found.inherited)):
            raise Mismatch(f"{function.name}: it reads attributes of an object")
        names += found.names.values()
        run |= found.functions
    guard = guard_of_rewritten(own, tuple(names), run.values())
    return replace(guard, defined=tuple(defined))


def parameter_names(function: Callable) -> tuple[str, ...]:
    target = function.forward if isinstance(function, nn.Module) else function
    return tuple(inspect.signature(target).parameters)


def or_own(original: Callable, taken: Callable) -> Callable:
    """What is taken by ours, or the results of what has the original's name at the call."""
    reason = f"its {getattr(original, '__name__', 'rotary function')} was called with heads or "
    reason += "tables of a dtype, shape or layout that was not proved"

    def apply(module, now, *inputs, **named):
        found = taken(*inputs, **named) if now is original else None
        if found is not None:
            return found
        stood_back(module, WATCHED if is_watched() else reason if now is original else ANOTHER)
        return now(*inputs, **named)

    return apply


@cache
def rotary_function(
    original: Callable, pair: bool, form: RotaryForm, wide: bool, layouts: Layouts
) -> Callable:
    """Ours with the original's signature and default of unsqueeze_dim; None for what no operator
    takes."""
    watched = original if isinstance(original, nn.Module) else None
    kind = type(watched)
    part = takes_part(original, pair, form)

    def lies(x: Tensor, unsqueeze_dim: int) -> bool:
        return has_rows(x) or (layouts.columns and unsqueeze_dim == 1 and are_columns(x))

    def fits(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> bool:
        if not is_usable(x) or x.dim() != 4 or unsqueeze_dim not in (1, 2):
            return False
        if not lies(x, unsqueeze_dim):
            return False
        rotated = cos.shape[-1] * form.table_parts
        if rotated % 2 or (rotated != x.shape[-1] and not part):
            return False
        if watched is not None and (type(watched) is not kind or is_hooked(watched)):
            return False
        if not keep_dtype(cos, x, wide):
            return False
        return are_angles(cos, sin, x.shape[0], x.shape[3 - unsqueeze_dim])

    def turn(q, k, cos, sin, unsqueeze_dim):
        """q, and k if there is one."""
        if is_watched():  # first, as a mode sees what is asked of tensors as well
            return None
        if k is not None:
            both = q.dtype == k.dtype and is_usable(k) and k.dim() == 4 and lies(k, unsqueeze_dim)
            # Heads are where the tables have none, and may differ in number.
            both = both and all(q.shape[i] == k.shape[i] for i in range(4) if i != unsqueeze_dim)
            if not both:
                return None
        if not fits(q, cos, sin, unsqueeze_dim):
            return None
        q, k = (x if x is None or has_rows(x) else x.contiguous() for x in (q, k))
        if k is not None and not have_one_history(q, k):
            (q, _), (k, _) = (form.operator(x, None, cos, sin, unsqueeze_dim) for x in (q, k))
            return q, k
        return form.operator(q, k, cos, sin, unsqueeze_dim)

    turned = with_shared(turn) if layouts.shared else turn

    def apply_pair(q, k=None, cos=None, sin=None, unsqueeze_dim=1):
        if k is None:  # where the original lets it be left out
            return apply_single(q, cos, sin, unsqueeze_dim) if layouts.alone else None
        return turned(q, k, cos, sin, unsqueeze_dim)

    def apply_positioned(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
        if position_ids is not None:
            return None
        return apply_pair(q, k, cos, sin, unsqueeze_dim)

    def apply_single(x, cos, sin, unsqueeze_dim=1):
        both = turned(x, None, cos, sin, unsqueeze_dim)
        return None if both is None else both[0]

    if not pair:
        return apply_single
    return apply_positioned if parameter_names(original) == POSITIONED else apply_pair


def have_one_history(q: Tensor, k: Tensor) -> bool:
    """Whether both results have a history, or none has: those of one node have it together."""
    return q.requires_grad == k.requires_grad or not torch.is_grad_enabled()


def takes_part(original: Callable, pair: bool, form: RotaryForm) -> bool:
    """Whether it rotates a part of each head where the tables are for less than a head."""
    width = 4 // form.table_parts
    x, table = torch.zeros(1, 1, 2, 8, device="cpu"), torch.zeros(1, 2, width, device="cpu")
    try:
        original(*[x] * (1 + pair), table, table)
    except Exception:
        return False
    return True


def keep_dtype(cos: Tensor, x: Tensor, wide: bool) -> bool:
    """Whether x has its dtype after such tables turned it. wide: as of `RotaryFunction`."""
    # With cos in another dtype eager arithmetic promotes, which autocast then takes back, but for
    # float64, or the function itself.
    if have_one_dtype(x, cos):
        return True
    return wide and cos.dtype == torch.float32 and x.dtype in HALVES


def dtype_of_tables(of_heads: torch.dtype, wide: bool) -> torch.dtype:
    """Who takes tables of float32 is given them. wide: as of `RotaryFunction`."""
    return torch.float32 if wide and of_heads in HALVES else of_heads


def are_angles(cos: Tensor, sin: Tensor, batch: int, tokens: int) -> bool:
    """Whether these are tables that the operators take, for heads of that batch and tokens."""
    if cos.dim() != 3 or cos.shape != sin.shape or cos.dtype != sin.dtype:
        return False
    if cos.shape[0] not in (1, batch) or cos.shape[1] != tokens:
        return False
    if not (is_usable(cos) and is_usable(sin)):
        return False
    # The operators have no gradient for angles.
    return not torch.is_grad_enabled() or not (cos.requires_grad or sin.requires_grad)


def replacement_formula(pair: bool, form: RotaryForm) -> Callable:
    def apply_single(x, cos, sin, unsqueeze_dim=1):
        tables = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return form.rotate(x, *tables).to(x.dtype)

    def apply_pair(q, k, cos, sin, *others):
        # The dimension of heads is the last of the others, if there are any.
        others = others[-1:]
        return apply_single(q, cos, sin, *others), apply_single(k, cos, sin, *others)

    return apply_pair if pair else apply_single


def prove_function(
    function: RotaryFunction,
    candidate: Callable,
    size: int,
    rotated: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    heads: tuple[int, int] = (3, 1),
    tokens: int = 5,
    sequences: int = 2,
    heads_at: int = 1,
    scale: float = 1.0,
    of_tables: torch.dtype | None = None,
) -> None:
    """`Mismatch` unless both rotate alike; one that rejects a partial width need not be tried.

    sequences: of the tables, for two sequences of heads. heads_at: the dimension of the heads.
    scale: of the values of heads. of_tables: their dtype, where it is not that of heads.
    """
    original = function.original
    generator = torch.Generator().manual_seed(17)
    # Of no angles, and with halves of their own: the operators read each entry of both.
    shape = sequences, tokens, rotated // function.form.table_parts
    tables = [random(shape, generator, of_tables or dtype).to(device) for _ in range(2)]
    more = [None] if parameter_names(original) == POSITIONED else []
    given = tables if heads_at == 1 else [*tables, *more, heads_at]
    single = parameter_names(original) == SINGLE
    inputs = [
        (random((2, tokens, count, size), generator) * scale).to(device, dtype)
        for count in (heads[:1] if single else heads)
    ]
    inputs = [x.transpose(1, 3 - heads_at) for x in inputs]
    try:
        original(*inputs, *given)
    except Exception as error:
        if rotated < size:
            return
        raise Mismatch(f"it takes no tables of {shape[-1]} for heads of {size}: {error}") from error
    what = f"rotating {rotated} of {size}"
    assert_same(lambda *x: original(*x, *given), lambda *x: candidate(*x, *given), inputs, (), what)


def meta_call(module: nn.Module, function: RotaryFunction) -> MetaCall | None:
    heads, keys, size, rotated = sizes_of(module)
    dtype, form = compute_dtype(module), function.form
    if function.factors is not None:
        return rotary_complex.meta_call((heads, keys, size), dtype, function.factors)

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta")

        q, k = (
            empty(batch, tokens, count, size).requires_grad_().transpose(1, 2)
            for count in (heads, keys)
        )
        width = rotated // form.table_parts
        of_tables = dtype_of_tables(dtype, function.wide)
        table = torch.empty(1, tokens, width, dtype=of_tables, device="meta")
        q, k = form.operator(q, k, table, table)
        (q.sum() + k.sum()).backward()

    return MetaCall("rope", (heads, keys, size, rotated, dtype, form, function.wide), run)


ROTARY: CompoundRule[RotationProof] = CompoundRule(
    "rotary", ("rope",), is_rotary_attention, group, prove, confirm
)
