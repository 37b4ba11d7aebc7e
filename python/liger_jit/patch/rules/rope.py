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
from functools import cache
from types import FunctionType

import torch
from torch import Tensor, nn

from ...meta_calls import MetaCall
from ..autocasting import autocast_dtype
from ..guard import Guard, guard_of_rewritten, is_hooked, is_usable
from ..installed import switched
from ..modes import is_watched
from ..probe import LONG, OUTLYING, Mismatch, assert_same, compute_dtype, live_device, random
from ..rule import CompoundRule, Parts, Proof, Refusal, Rule, own_class_forward
from ..source.definition import NO_SOURCE, definition_of, innermost, rebuilt
from ..source.reading import read
from . import rotary_rows
from .memory_order import has_rows
from .rotary_form import FORMS, USUAL, RotaryForm

PAIR = ("q", "k", "cos", "sin", "unsqueeze_dim")
SINGLE = ("x", "cos", "sin", "unsqueeze_dim")
# A name that no forward has, by which the rewritten one finds our function.
FUNCTION = "_liger_jit_rotary"
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
    was proved to compute. rows: whether it is one of heads of one sequence (`rotary_rows`)."""

    name: str
    original: Callable
    pair: bool
    form: RotaryForm = USUAL
    rows: bool = False

    @property
    def replacement(self) -> Callable:
        if self.rows:
            return rotary_rows.rotary_of_rows(self.original)
        return rotary_function(self.original, self.pair, self.form)


def function_of_forward(module: nn.Module) -> RotaryFunction:
    """The first that the class's forward calls."""
    name = rotary_names(module)[0]
    original = innermost(own_class_forward(module)).__globals__[name]
    parameters = parameter_names(original)
    rows = parameters == rotary_rows.PARAMETERS
    return RotaryFunction(name, original, rows or parameters == PAIR, rows=rows)


def group_of_function(module: nn.Module) -> Hashable:
    """Several forwards of a file may call one function."""
    places = compute_dtype(module), str(live_device(module))
    return function_of_forward(module), sizes_of(module), places


def prove_formula(module: nn.Module) -> RotaryFunction | Refusal:
    """Of a function that was read before: see `guard_of_rotation`."""
    function, size = function_of_forward(module), sizes_of(module)[2]
    if function.rows:
        try:
            rotary_rows.check_formula(function.original, size, OTHER_SIZES)
        except Mismatch as mismatch:
            return Refusal(f"{function.name}: {mismatch}")
        return function
    reasons = []
    for form in FORMS:
        one = replace(function, form=form)
        try:
            check_form(one, size)
        except Mismatch as mismatch:
            reasons.append(f"{function.name}: {mismatch}")
        else:
            return one
    return Refusal(reasons[0])


def check_form(function: RotaryFunction, size: int) -> None:
    """`Mismatch` unless the function is of its form for heads of all sizes."""
    formula = replacement_formula(function.pair, function.form)
    # Full and partial width: a function that treats the rest otherwise is of another form.
    takes_part(function.original, function.pair, function.form)
    for rotated in (size, size // 4 * 2):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            prove_function(function, formula, size, rotated, dtype=dtype)
        for more in (
            {"tokens": 1},
            {"tokens": 37, "scale": OUTLYING},
            {"tokens": LONG, "sequences": 1},
        ):
            prove_function(function, formula, size, rotated, **more)
    for other in OTHER_SIZES:
        prove_function(function, formula, other, other)
    prove_function(function, formula, size, size, heads_at=2)


def confirm_operator(module: nn.Module, function: RotaryFunction) -> RotaryFunction | Refusal:
    heads, keys, size, rotated = sizes_of(module)
    where = live_device(module), compute_dtype(module)
    candidate = function.replacement
    try:
        if function.rows:
            rotary_rows.check(function.original, candidate, size, *where)
        else:
            prove_function(function, candidate, size, rotated, *where, (heads, keys))
    except Mismatch as mismatch:
        return Refusal(f"{function.name}: {mismatch}")
    return function


ROTARY_FUNCTION: Rule[RotaryFunction] = Rule(
    "rotary_function", (), is_rotary_attention, group_of_function, prove_formula, confirm_operator
)


@dataclass(frozen=True, eq=False, kw_only=True)
class RotationProof(Proof):
    """Of an attention's forward that calls this function."""

    function: RotaryFunction


def prove(module: nn.Module, proved: Parts) -> RotationProof | Refusal:
    names = rotary_names(module)
    if len(names) > 1:
        return Refusal(f"its forward calls several rotary functions: {', '.join(names)}")
    function, own = function_of_forward(module), own_class_forward(module)
    parameters = parameter_names(function.original)
    if parameters not in (PAIR, SINGLE, rotary_rows.PARAMETERS):
        return Refusal(f"{function.name} takes ({', '.join(parameters)})")
    try:
        # Read before it is run: what has effects would have them on what it shares with others.
        guard = guard_of_rotation(own, function.name, function.original)
    except Mismatch as mismatch:
        return Refusal(f"{function.name}: {mismatch}")
    function = proved(ROTARY_FUNCTION, module)
    if isinstance(function, Refusal):
        return function
    try:
        forward = rewritten(own, function.name, function.replacement)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    meta = meta_call(module, function.form)
    return RotationProof("rope", switched(forward, guard), guard, forward, meta, function=function)


def confirm(module: nn.Module, proof: RotationProof, confirmed: Parts) -> RotationProof | Refusal:
    function = confirmed(ROTARY_FUNCTION, module)
    return function if isinstance(function, Refusal) else proof


def rewritten(own: FunctionType, name: str, replacement: Callable) -> FunctionType:
    """The class's forward with `replacement` wherever it names that global; `Mismatch` if it cannot
    be rebuilt."""
    definition = definition_of(own)
    if definition is None:
        raise Mismatch(NO_SOURCE)
    called = [node.func for node in ast.walk(definition) if isinstance(node, ast.Call)]
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and node.id == name:
            if node not in called:
                raise Mismatch(f"its forward does more with {name} than call it")
            node.id = FUNCTION
    return rebuilt(definition, own, {FUNCTION: replacement})


def guard_of_rotation(own: FunctionType, name: str, original: Callable) -> Guard:
    """The attention's forward, the rotary function that its file has, and all that this runs.

    Raises Mismatch if that function cannot be watched: see `reading`.
    """
    names = [(innermost(own).__globals__, name, original)]
    if isinstance(original, nn.Module):
        found = read(original, type(original).forward)
        names.append((original.__dict__, "forward", None))
    else:
        found = read(None, original)
    if found.values or found.callables or found.tensors or found.called:
        raise Mismatch("it reads attributes of an object")
    return guard_of_rewritten(own, (*names, *found.names.values()), found.functions.values())


def parameter_names(function: Callable) -> tuple[str, ...]:
    target = function.forward if isinstance(function, nn.Module) else function
    return tuple(inspect.signature(target).parameters)


@cache
def rotary_function(original: Callable, pair: bool, form: RotaryForm) -> Callable:
    """Our rotary function, with the original's signature and default of unsqueeze_dim."""
    watched = original if isinstance(original, nn.Module) else None
    kind = type(watched)

    def fits(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> bool:
        if is_watched() or not is_usable(x) or x.dim() != 4 or unsqueeze_dim not in (1, 2):
            return False
        if not has_rows(x):
            return False
        if cos.shape[-1] * form.table_parts != x.shape[-1] and not takes_part(original, pair, form):
            return False
        if watched is not None and (type(watched) is not kind or is_hooked(watched)):
            return False
        # With cos in another dtype eager arithmetic promotes, which autocast then takes back.
        alike = x.dtype == cos.dtype or autocast_dtype(x.device) is not None
        return alike and are_angles(cos, sin, x.shape[0], x.shape[3 - unsqueeze_dim])

    def apply_pair(q, k=None, cos=None, sin=None, unsqueeze_dim=1):
        if k is None:  # where the original lets it be left out, what it then does was not proved
            return original(q, k, cos, sin, unsqueeze_dim)
        both = q.dtype == k.dtype and is_usable(k) and k.dim() == 4 and has_rows(k)
        # Heads are where the tables have none, and may differ in number.
        both = both and all(q.shape[i] == k.shape[i] for i in range(4) if i != unsqueeze_dim)
        if not both or not fits(q, cos, sin, unsqueeze_dim):
            return original(q, k, cos, sin, unsqueeze_dim)
        if not have_one_history(q, k):
            (q, _), (k, _) = (form.operator(x, None, cos, sin, unsqueeze_dim) for x in (q, k))
            return q, k
        return form.operator(q, k, cos, sin, unsqueeze_dim)

    def apply_single(x, cos, sin, unsqueeze_dim=1):
        if not fits(x, cos, sin, unsqueeze_dim):
            return original(x, cos, sin, unsqueeze_dim)
        return form.operator(x, None, cos, sin, unsqueeze_dim)[0]

    return apply_pair if pair else apply_single


def have_one_history(q: Tensor, k: Tensor) -> bool:
    """Whether both results have a history, or none has: those of one node have it together."""
    return q.requires_grad == k.requires_grad or not torch.is_grad_enabled()


@cache
def takes_part(original: Callable, pair: bool, form: RotaryForm) -> bool:
    """Whether it rotates a part of each head where the tables are for less than a head."""
    width = 4 // form.table_parts
    x, table = torch.zeros(1, 1, 2, 8, device="cpu"), torch.zeros(1, 2, width, device="cpu")
    try:
        original(*[x] * (1 + pair), table, table)
    except Exception:
        return False
    return True


def are_angles(cos: Tensor, sin: Tensor, batch: int, tokens: int) -> bool:
    """Whether these are tables that the operators take, for heads of that batch and tokens."""
    if cos.dim() != 3 or cos.shape != sin.shape or cos.dtype != sin.dtype:
        return False
    if cos.shape[0] not in (1, batch) or cos.shape[1] != tokens or not is_usable(cos):
        return False
    # The operators have no gradient for angles.
    return not torch.is_grad_enabled() or not (cos.requires_grad or sin.requires_grad)


def replacement_formula(pair: bool, form: RotaryForm) -> Callable:
    def apply_single(x, cos, sin, unsqueeze_dim=1):
        return form.rotate(x, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))

    def apply_pair(q, k, *others):
        return apply_single(q, *others), apply_single(k, *others)

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
) -> None:
    """`Mismatch` unless both rotate alike; one that rejects a partial width need not be tried.

    sequences: of the tables, for two sequences of heads. heads_at: the dimension of the heads.
    scale: of the values of heads.
    """
    original = function.original
    generator = torch.Generator().manual_seed(17)
    # Of no angles, and with halves of their own: the operators read each entry of both.
    shape = sequences, tokens, rotated // function.form.table_parts
    tables = [random(shape, generator, dtype).to(device) for _ in range(2)]
    given = tables if heads_at == 1 else [*tables, heads_at]
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


def meta_call(module: nn.Module, form: RotaryForm) -> MetaCall:
    heads, keys, size, rotated = sizes_of(module)
    dtype = compute_dtype(module)

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta")

        q, k = (
            empty(batch, tokens, count, size).requires_grad_().transpose(1, 2)
            for count in (heads, keys)
        )
        table = empty(1, tokens, rotated // form.table_parts)
        q, k = form.operator(q, k, table, table)
        (q.sum() + k.sum()).backward()

    return MetaCall("rope", (heads, keys, size, rotated, dtype, form), run)


ROTARY: CompoundRule[RotationProof] = CompoundRule(
    "rotary", ("rope",), is_rotary_attention, group, prove, confirm
)
