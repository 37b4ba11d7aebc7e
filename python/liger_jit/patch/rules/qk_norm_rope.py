"""The rule for attention that norms q and k and then rotates both: each head by itself, as Qwen3's
does, or all heads of a token together, as OLMo 2's.

The forward is rewritten in its source (`qk_norm_source`): while both norms are patched and nothing
more, q and k go through them and through the rotation in one kernel. Where that is not proved, the
answer is that of the rotary rule, and norms and rotation stay operators of their own.
"""

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache, partial
from types import CodeType, FunctionType

import torch
from torch import Tensor, nn

from ... import functional
from ...meta_calls import MetaCall
from ..guard import is_usable
from ..installed import UNPROVED, install, stood_back, switched
from ..probe import Mismatch, SparseLinear, assert_same, compute_dtype, live_device, random, twin_of
from ..rule import CompoundRule, Parts, Proof, Refusal, group_of, own_class_forward
from ..source.definition import NO_SOURCE, definition_of, innermost
from ..source.effects import read_effects
from . import rope as rotary
from .memory_order import reordered
from .norm import NORM, is_norm
from .proved_norm import NormProof, ProvedRmsNorm, norm_of
from .qk_norm_source import Rewritten, rewrite
from .rope import RotaryFunction, RotationProof
from .rotary_form import USUAL

ROLE = "qk_norm_rope"
LARGEST_HEAD = 1024
LARGEST_TOKEN = 16384  # of all its heads, where they are normed together
PROBE_BATCH, PROBE_TOKENS = 2, 5
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def may_wait(q_norm: nn.Module, k_norm: nn.Module) -> ProvedRmsNorm | None:
    """What both norms compute, if they can be left to the rotation's kernel."""
    ours = norm_of(q_norm)
    if (
        not isinstance(ours, ProvedRmsNorm)
        or ours != norm_of(k_norm)
        or ours.eps(q_norm) != ours.eps(k_norm)
    ):
        return None
    # Another weight than one for each element of a row has a meaning only where the norm stands.
    return ours if q_norm.weight.dim() == k_norm.weight.dim() == 1 else None


def normed(waits: object, norm: nn.Module, x: Tensor) -> Tensor:
    return x if waits else norm(x)


def divided(norm: Callable, x: Tensor, full: bool, transposed: bool) -> Tensor:
    """The norm, which takes rows, of [B, H, T, D]: of each head, or of all heads of a token. Not
    transposed after it in the model's own forward, it is no view."""
    tokens = x.transpose(1, 2)  # rows, as they are before they are transposed
    rows = norm(tokens.flatten(2)).unflatten(2, tokens.shape[2:]) if full else norm(tokens)
    return rows.transpose(1, 2) if transposed else reordered(rows, [0, 2, 1, 3])


def fits(
    full: bool,
    wide: bool,
    part: bool,
    norm: ProvedRmsNorm,
    q_norm: nn.Module,
    k_norm: nn.Module,
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> bool:
    """True if the kernel gives what norms and rotation give, in dtype as in value. full: as of
    `norm_and_rope`. wide, part: as of `RotaryFunction`."""
    if not (is_usable(q) and is_usable(k)) or q.dim() != 4 or k.dim() != 4:
        return False
    q_size, k_size = (x.shape[-1] * (x.shape[1] if full else 1) for x in (q, k))
    if max(q_size, k_size) > (LARGEST_TOKEN if full else LARGEST_HEAD):
        return False
    q_weight, k_weight = q_norm.weight, k_norm.weight
    if not have_one_history(q, k, q_weight, k_weight):
        return False
    if q.dtype != k.dtype or q_weight.dtype != k_weight.dtype:
        return False
    if norm.form.promote and q_weight.dtype != q.dtype:
        return False
    if not (norm.takes_rows_of(q_size, q_norm, q) and norm.takes_rows_of(k_size, k_norm, k)):
        return False
    if cos.shape[-1] % 2 or (cos.shape[-1] != q.shape[-1] and not part):
        return False
    keep_dtype = rotary.keep_dtype(cos, q, wide)
    return keep_dtype and rotary.are_angles(cos, sin, q.shape[0], q.shape[2])


def have_one_history(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor) -> bool:
    """As of a rotation alone, with what the norms add."""
    if q.requires_grad and k.requires_grad or not torch.is_grad_enabled():
        return True
    of_q = q.requires_grad or q_weight.requires_grad
    return of_q == (k.requires_grad or k_weight.requires_grad)


def alone(waits: ProvedRmsNorm, norm: nn.Module, x: Tensor) -> Tensor:
    """A norm without the rotation: the operator where it was proved, else its class's forward."""
    if is_usable(x) and waits.takes_alone(norm, x):
        return waits(norm, x)
    stood_back(norm, UNPROVED)
    return type(norm).forward(norm, x)


@cache
def norms_alone(full: bool, transposed: bool) -> Callable:
    def normed_alone(
        waits: ProvedRmsNorm | None, q_norm: nn.Module, k_norm: nn.Module, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """q and k normed, if that waited."""
        if not waits:
            return q, k
        q, k = (
            divided(partial(alone, waits, norm), x, full, transposed)
            for norm, x in ((q_norm, q), (k_norm, k))
        )
        return q, k

    return normed_alone


def norms_of_rows(
    waits: ProvedRmsNorm | None, q_norm: nn.Module, k_norm: nn.Module, q: Tensor, k: Tensor
) -> tuple[Tensor, Tensor]:
    """The same of q and k that are not divided into heads yet."""
    return (alone(waits, q_norm, q), alone(waits, k_norm, k)) if waits else (q, k)


@cache
def norm_and_rope(function: RotaryFunction, full: bool, transposed: bool) -> Callable:
    """What finishes a module's q and k where they are rotated, given what has that function's name
    by then. full, transposed: as of `Rewritten`."""
    apart, rotate = norms_alone(full, transposed), function.replacement
    original, wide, part = function.original, function.wide, function.part

    def finish(module, now, waits, q_norm, k_norm, q, k, cos, sin):
        if not waits:
            return rotate(module, now, q, k, cos, sin)
        # What stood where the norms stand was found there: a hook that came since is too late.
        given = q_norm, k_norm, q, k
        if now is not original or not fits(full, wide, part, waits, *given, cos, sin):
            return rotate(module, now, *apart(waits, *given), cos, sin)
        form = waits.form
        options = waits.eps(q_norm), form.offset, form.mode
        together = functional.full_qk_norm_rope if full else functional.qk_norm_rope
        return together(q, k, q_norm.weight, k_norm.weight, cos, sin, *options)

    return finish


def rewritten(module: nn.Module) -> Rewritten:
    """Of its class's forward; `Mismatch` that says what that lacks."""
    names = rotary.rotary_names(module)
    if len(names) != 1:
        raise Mismatch(f"its forward calls {len(names)} rotary functions")
    own = own_class_forward(module)
    source = found_in(own, names[0], getattr(innermost(own), "__code__", None))
    if isinstance(source, str):
        raise Mismatch(source)
    for name in source.norms:
        child = module._modules.get(name)
        if child is None or not is_norm(child):
            raise Mismatch(f"{name} is no norm")
    return source


@cache
def found_in(forward: FunctionType, rotary_name: str, code: CodeType | None) -> Rewritten | str:
    """Or what is not there. `code` is the forward's, which may be replaced in place."""
    definition = definition_of(forward)
    if definition is None:
        return NO_SOURCE
    try:
        return rewrite(definition, rotary_name)
    except Mismatch as mismatch:
        return str(mismatch)


def matches(module: nn.Module) -> bool:
    """Attention with norms of its own, of q and k or of what these are made of."""
    count, linear = len(norms_in(module)), projections(module)
    if not count or len(linear) < 2:
        return False
    if rotary.is_rotary_attention(module):
        return True
    # A layer may have projections as well, beside parts that are made of something.
    made = [name for name, child in module.named_children() if next(child.children(), None)]
    return count > 1 and linear.keys() >= set(made)


def norms_in(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if is_norm(child)]


def group(module: nn.Module) -> Hashable:
    widths = tuple(projections(module).items())
    return rotary.group(module), widths, *(group_of(child) for child in norms_in(module))


def projections(module: nn.Module) -> dict[str, tuple[int, int]]:
    """{name: (in, out) features} of the children that are linear layers of any make."""
    features = {
        name: (getattr(child, "in_features", None), getattr(child, "out_features", None))
        for name, child in module.named_children()
    }
    return {name: pair for name, pair in features.items() if None not in pair}


@dataclass(frozen=True, eq=False, kw_only=True)
class QkNormProof(Proof):
    """Made of the proofs of the rotation alone and of both norms. source: the forward before and
    after. functions: what that one calls, as `Rewritten.forward` takes them."""

    rotation: RotationProof
    norms: tuple[NormProof, NormProof]
    source: Rewritten
    functions: tuple[Callable, ...]

    @property
    def otherwise(self) -> RotationProof:
        return self.rotation


def prove(module: nn.Module, proved: Parts) -> QkNormProof | RotationProof | Refusal:
    if not rotary.is_rotary_attention(module):
        return Refusal("its forward calls no rotary function")
    rotation = proved(rotary.ROTARY, module)
    if isinstance(rotation, Refusal):
        return rotation
    try:
        return with_norms(module, rotation, proved)
    except Mismatch as mismatch:
        return replace(rotation, missed=(ROLE, str(mismatch)))


def with_norms(module: nn.Module, rotation: RotationProof, proved: Parts) -> QkNormProof:
    """The proof of norms and rotation in one, for which that of the rotation alone stands in."""
    source = rewritten(module)
    answers = [proved(NORM, module._modules[name]) for name in source.norms]
    for name, answer in zip(source.norms, answers):
        if isinstance(answer, Refusal):
            raise Mismatch(f"{name}: {answer.reason}")
    norm = answers[0].norm
    if not isinstance(norm, ProvedRmsNorm) or norm != answers[1].norm:
        raise Mismatch("its norms are not two of one kind that a rotation takes")
    (rotary_function,) = rotation.functions
    if not rotary_function.pair:
        raise Mismatch("its rotary function takes q and k apart")
    if not rotary_function.is_usual:
        raise Mismatch("its rotary function is not that of halves by whole tables")
    longest = max(module._modules[name].weight.numel() for name in source.norms)
    if source.full and longest > LARGEST_TOKEN:
        raise Mismatch(f"the heads of a token have together more than {LARGEST_TOKEN} elements")
    check_formula(module, source, norm)
    full, wide = source.full, rotary_function.wide
    how = full, source.transposed
    finish = norm_and_rope(rotary_function, *how)
    functions = may_wait, normed, finish, norms_alone(*how), norms_of_rows
    forward = source.forward(own_class_forward(module), functions)
    meta, guard = meta_call(module, source, norm, wide), rotation.guard
    return QkNormProof(
        ROLE,
        switched(forward, guard),
        guard,
        forward,
        meta,
        rotation=rotation,
        norms=tuple(answers),
        source=source,
        functions=functions,
    )


def confirm(
    module: nn.Module, proof: QkNormProof | RotationProof, confirmed: Parts
) -> QkNormProof | RotationProof | Refusal:
    rotation = confirmed(rotary.ROTARY, module)
    if isinstance(rotation, Refusal):
        return rotation
    if not isinstance(proof, QkNormProof):
        return proof
    where = live_device(module), compute_dtype(module)
    wide = proof.rotation.functions[0].wide
    try:
        for of_tables in {where[1], rotary.dtype_of_tables(where[1], wide)}:
            check(module, proof.source, proof.functions, *where, of_tables, proof.norms)
    except Mismatch as mismatch:
        return replace(rotation, missed=(ROLE, str(mismatch)))
    return proof


def check_formula(module: nn.Module, source: Rewritten, norm: ProvedRmsNorm) -> None:
    """`Mismatch` unless the rewritten statements give q and k as the class's own do, in plain torch
    and float32, with norms that wait and with norms that do not."""
    reference, full = norm.form.reference, source.full
    rotate = rotary.replacement_formula(True, USUAL)

    def apart(waits, q_norm, k_norm, q, k):
        if waits:
            q, k = (
                divided(
                    lambda rows, own=own: reference(rows, own.weight, norm.eps(own)), x, full, True
                )
                for x, own in ((q, q_norm), (k, k_norm))
            )
        return q, k

    def rows_apart(waits, q_norm, k_norm, q, k):
        if waits:
            q, k = (reference(x, o.weight, norm.eps(o)) for x, o in ((q, q_norm), (k, k_norm)))
        return q, k

    def finish(module, now, *given):
        *both, cos, sin = given
        return rotate(*apart(*both), cos, sin)

    for waits in (True, False):
        functions = (lambda q_norm, k_norm, waits=waits: waits, normed, finish, apart, rows_apart)
        check(module, source, functions, torch.device("cpu"), torch.float32, torch.float32)


def check(
    module: nn.Module,
    source: Rewritten,
    functions: tuple[Callable, ...],
    device: torch.device,
    dtype: torch.dtype,
    of_tables: torch.dtype,
    proofs: tuple[NormProof, ...] = (),
) -> None:
    """Of q and k and all gradients; norms are patched with `proofs`, or else their own."""
    generator = torch.Generator().manual_seed(23)
    linear = {
        name: SparseLinear(*pair, generator).to(device, dtype)
        for name, pair in projections(module).items()
    }
    if not linear:
        raise Mismatch("no projections that say their widths")
    plain, patched = dict(linear), dict(linear)
    weights = [layer.weight for layer in linear.values()]
    for i, name in enumerate(source.norms):
        child = module._modules[name]
        weight = nn.Parameter(random(child.weight.shape, generator, dtype).to(device))
        plain[name], patched[name] = (twin_of(child, {"weight": weight}) for _ in range(2))
        if proofs:
            install(patched[name], proofs[i])
        weights.append(weight)
    own = own_class_forward(module)
    read_effects(module, innermost(own), {*linear, *source.norms}, source.before_rotation)
    given = arguments(module, device, dtype, of_tables, generator)

    def result(head: Callable, children: dict, x: Tensor):
        try:
            return head(twin_of(module, modules=children), **{**given, "hidden_states": x})
        except Exception as error:
            raise Mismatch(f"it cannot be run on stand-ins: {error}") from error

    for rotates in (True, False) if source.is_conditional else (True,):
        before, after = source.head(own, (), rotates), source.head(own, functions, rotates)
        assert_same(
            partial(result, before, plain),
            partial(result, after, patched),
            [given["hidden_states"]],
            weights,
            "norms and rotation",
        )


def arguments(
    module: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    of_tables: torch.dtype,
    generator: torch.Generator,
) -> dict:
    """For the forward: states, angles, and None for all else that has no default."""
    rotated = rotary.sizes_of(module)[3]
    width = next(iter(projections(module).values()))[0]
    parameters = list(inspect.signature(own_class_forward(module)).parameters.values())[1:]
    needed = {p.name: None for p in parameters if p.default is p.empty and p.kind not in VARIADIC}
    x = random((PROBE_BATCH, PROBE_TOKENS, width), generator, dtype).to(device)
    shape = (PROBE_BATCH, PROBE_TOKENS, rotated)
    tables = tuple(random(shape, generator, of_tables).to(device) for _ in range(2))
    return {**needed, "hidden_states": x, "position_embeddings": tables}


def meta_call(
    module: nn.Module, source: Rewritten, norm: ProvedRmsNorm, wide: bool
) -> MetaCall | None:
    q_norm = module._modules[source.norms[0]]
    heads, keys, size, rotated = rotary.sizes_of(module)
    dtype, weight_dtype = compute_dtype(module), q_norm.weight.dtype
    if not norm.is_proved_for(dtype, weight_dtype):
        return None
    mode, offset = norm.form.mode, norm.form.offset
    eps, op = norm.eps(q_norm), "full_qk_norm_rope" if source.full else "qk_norm_rope"
    of_tables = rotary.dtype_of_tables(dtype, wide)

    def run(batch: int, tokens: int) -> None:
        def empty(*shape, dtype=dtype):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        q, k = (empty(batch, tokens, count, size).transpose(1, 2) for count in (heads, keys))
        normed = (heads * size, keys * size) if source.full else (size, size)
        weights = (empty(one, dtype=weight_dtype) for one in normed)
        table = empty(1, tokens, rotated, dtype=of_tables).detach()
        q, k = getattr(functional, op)(q, k, *weights, table, table, eps, offset, mode)
        (q.sum() + k.sum()).backward()

    key = heads, keys, size, rotated, dtype, weight_dtype, mode, offset, wide
    return MetaCall(op, key, run)


def absorbed(module: nn.Module, proof: QkNormProof | RotationProof) -> list[nn.Module]:
    names = proof.source.norms if isinstance(proof, QkNormProof) else ()
    return [module._modules[name] for name in names]


QK_NORM: CompoundRule[QkNormProof | RotationProof] = CompoundRule(
    "qk_norm", (ROLE,), matches, group, prove, confirm, absorbed
)
