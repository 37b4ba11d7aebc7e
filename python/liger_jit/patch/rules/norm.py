"""The rule for normalisations: every form of RMSNorm that the native operator has, and LayerNorm,
torch's or one that is written out.

Which form a module computes is found by trying all of them on its own forward: float32 settles the
formula, bfloat16 settles where it rounds, mixed dtypes settle what it returns, and float16 whether
large values overflow on the way. A permuted input settles whether the result lies in memory as that
does.
"""

import itertools
from types import FunctionType

import torch
from torch import Tensor, nn

from ... import functional
from ...meta_calls import MetaCall
from ..autocasting import AutocastOfGpus
from ..guard import Guard, guard_of
from ..installed import guarded
from ..probe import (
    OUTPUT_ERROR,
    Mismatch,
    assert_same,
    compute_dtype,
    live_device,
    random,
    relative_error,
    run_own,
    tensor_inputs,
    twin_of,
)
from ..rule import Refusal, Rule, group_of, own_class_forward, taken_away
from ..source.torchs_own import torchs_name
from .gated_norm import ROLE as GATED
from .gated_norm import prove_gated, takes_gate
from .memory_order import has_order, in_order_of, is_worth_copies
from .offset_layer_norm import find_offset
from .proved_norm import (
    DTYPES,
    PROBES,
    Epsilon,
    Form,
    LayerForm,
    NormProof,
    ProvedLayerNorm,
    ProvedRmsNorm,
    RmsForm,
    epsilon_of,
)

LARGEST_EPSILON = 1e-2
MOST_TIPPED = 0.1
# Orders of dims in memory, of which torch has some ways of its own for the last: channels there.
COLUMNS = (0, 2, 1), (0, 1, 3, 2), (0, 2, 3, 1)
# Values whose squares float32 does not hold, a mean that is far from zero, and how much of it
# rounding takes.
OVERFLOWING, FAR, EXTREME_ERROR = 1e20, 100.0, 2e-4


def is_norm(module: nn.Module) -> bool:
    """A leaf that has a norm's name or an epsilon, and no parameters but a vector or two."""
    if next(module.children(), None) is not None:
        return False
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    if not set(parameters) <= {"weight", "bias"}:
        return False
    if any(p.dim() != 1 for p in parameters.values()):
        return False
    return "norm" in type(module).__name__.lower() or bool(epsilons(module) and parameters)


def epsilons(module: nn.Module) -> list[str]:
    return [
        name
        for name, value in module.__dict__.items()
        if isinstance(value, float) and 0.0 < value <= LARGEST_EPSILON
    ]


def literal_epsilons(forward: FunctionType) -> list[float]:
    """The numbers in its code that may be one."""
    constants = getattr(getattr(forward, "__code__", None), "co_consts", ())
    return [one for one in constants if isinstance(one, float) and 0.0 < one <= LARGEST_EPSILON]


def prove(module: nn.Module) -> NormProof | Refusal:
    if reason := taken_away(module):
        return Refusal(reason)
    kept = {one.dtype for one in module._parameters.values() if one is not None}
    if strange := kept.difference(OUTPUT_ERROR):
        return Refusal(f"its weight is packed ({strange.pop()})")
    if torchs_name(own_class_forward(module)) == "LayerNorm.forward":
        return prove_layer_norm(module)
    if not takes_gate(module):
        return prove_alone(module)
    gated = prove_gated(module)
    if isinstance(gated, NormProof):
        return gated
    alone = prove_alone(module)
    return gated if isinstance(alone, Refusal) else alone


def prove_alone(module: nn.Module) -> NormProof | Refusal:
    """Of a call with one input."""
    if tensor_inputs(own_class_forward(module)) != 1:
        return Refusal("its forward takes more than one input")
    if isinstance(module, nn.LayerNorm):
        return prove_offset(module)
    if module._parameters.get("bias") is not None:
        return Refusal("a bias, and not torch's LayerNorm")
    literals = literal_epsilons(own_class_forward(module))
    if not epsilons(module) and not literals:
        return Refusal("no epsilon among its attributes, and none in its forward")
    weight = module._parameters.get("weight")
    try:
        # Read before it is run: what has effects would have them on what it shares with a twin.
        guard = guard_of(module, tensors=("weight",))
        read = dict(guard.values)
        named = [name for name in epsilons(module) if name in read]
        form, dtypes = find_form(module, weight, forms_of(weight, [*named, *literals]))
        if isinstance(form, LayerForm):
            return layer_proof(module, form, dtypes, weight, guard)
        norm = ProvedRmsNorm(
            form=form,
            keeps_order=keeps_order(module, weight, (1, 2, 0, 3)),
            keeps_columns=all(keeps_order(module, weight, order) for order in COLUMNS),
            is_autocast=is_autocast(module, weight),
            dtypes=dtypes,
        )
        return rms_proof(module, norm, weight, guard)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))


def forms_of(weight: Tensor | None, epsilons: list[Epsilon]) -> list[Form]:
    modes = itertools.product(("llama", "gemma"), (0.0, 1.0), (True, False), epsilons)
    forms = [RmsForm(*each) for each in modes]
    if weight is None:
        forms = [form for form in forms if form.mode == "gemma" and not form.offset]
    return [*forms, *map(LayerForm, epsilons)]


def find_form(
    module: nn.Module, weight: Tensor | None, forms: list[Form]
) -> tuple[Form, frozenset[tuple[torch.dtype, torch.dtype]]]:
    """The form whose float32 values, bfloat16 roundings and result dtypes are the module's, and
    the dtypes of input and weight for which it is: two of one dtype, and others that go with it."""
    # A norm without a weight has no width of its own.
    own = width_of(module, weight)
    widths = (64, 96, 1024) if own is None else (own,)
    found = set()
    needed = [(dtype, dtype) for dtype in DTYPES]
    mixed = itertools.permutations(DTYPES, 2)
    for dtypes in (*needed, *mixed, (torch.float64, torch.float64)):
        try:
            left = forms
            for width in widths:
                left = matching(module, left, width, weight is not None, *dtypes)
        except Mismatch:
            if dtypes in needed:
                raise
            continue
        forms = left
        found.add(dtypes)
    check_gradients(module, forms[0], widths[0], weight is not None)
    return forms[0], frozenset(found)


def width_of(module: nn.Module, weight: Tensor | None) -> int | None:
    """Of the rows that it norms; None if they may have any."""
    if weight is not None:
        return weight.shape[0]
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 1 else None


def matching(module, forms, width, has_weight, x_dtype, weight_dtype) -> list[Form]:
    """Those forms that agree with the module's own forward, the closest ones only."""
    generator = torch.Generator().manual_seed(7)
    weight = random((width,), generator, weight_dtype) if has_weight else None
    # Rows from tiny to large, so that a wrong epsilon shows, and squares that float16 cannot hold.
    # All sizes differ, so that a mean over another dimension shows.
    rows = torch.logspace(-4, 3, 8, device="cpu").reshape(2, 4, 1)
    x = (random((2, 4, width), generator) * rows).to(x_dtype)
    own = run_own(module, twin_with(module, weight), x)
    errors = {}
    for form in forms:
        found = form.reference(x, weight, epsilon_of(module, form.epsilon))
        alike = x_dtype == weight_dtype or rounds_alike(found, own)
        errors[form] = largest_row_error(found, own) if alike else float("inf")
    allowed = max(OUTPUT_ERROR[x_dtype], OUTPUT_ERROR[weight_dtype])
    best = min(errors.values(), default=float("inf"))
    if not best <= allowed:
        raise Mismatch(f"no known norm computes what it does (closest differs by {best:.1e})")
    return [form for form, error in errors.items() if error <= max(best, 1e-6)]


def twin_with(module: nn.Module, weight: Tensor | None) -> nn.Module:
    return twin_of(module, None if weight is None else {"weight": nn.Parameter(weight)})


def rounds_alike(found: Tensor, own: Tensor) -> bool:
    """Whether only a few elements differ, as where a last digit of float32 tips a rounding. What
    rounds once more, or once less, differs almost everywhere."""
    if found.dtype != own.dtype:
        return False
    differ = (found.double() - own.double()).abs() > 1e-5 * own.double().abs()
    return differ.double().mean().item() <= MOST_TIPPED


def largest_row_error(found: Tensor, own: Tensor) -> float:
    if found.shape != own.shape:
        return float("inf")
    pairs = zip(found.flatten(0, -2), own.flatten(0, -2), strict=True)
    return max(relative_error(*pair) for pair in pairs)


def check_gradients(module: nn.Module, form: Form, width: int, has_weight: bool) -> None:
    """On inputs of each number of dimensions, of many rows, and of large and small values."""
    generator = torch.Generator().manual_seed(3)
    usual = random((width,), generator) if has_weight else None
    eps = epsilon_of(module, form.epsilon)
    for leading, scale, of_weight, _ in PROBES:
        twin = twin_with(module, usual * of_weight if has_weight else None)
        weight = twin._parameters["weight"] if has_weight else None
        assert_same(
            lambda x, twin=twin: run_own(module, twin, x),
            lambda x, weight=weight: form.reference(x, weight, eps),
            [random((*leading, width), generator) * scale],
            [weight] if has_weight else [],
            "the formula",
        )
    check_extremes(module, twin_with(module, usual), form, usual, width)


def check_extremes(
    module: nn.Module, twin: nn.Module, form: Form, weight: Tensor | None, width: int
) -> None:
    """Where squares overflow, and where the mean is far from the values' spread: formulas that are
    one on paper have other values there."""
    generator = torch.Generator().manual_seed(37)
    x = random((2, 3, width), generator)
    with torch.no_grad():
        for extreme in (x * OVERFLOWING, x + FAR):
            own = run_own(module, twin, extreme).nan_to_num()
            found = form.reference(extreme, weight, epsilon_of(module, form.epsilon)).nan_to_num()
            if not relative_error(found, own) <= EXTREME_ERROR:
                raise Mismatch("the formula, but of values of another size it makes others")


def keeps_order(module: nn.Module, weight: Tensor | None, order: tuple[int, ...]) -> bool:
    """Whether its result lies in memory as an input with its dims in that order, as that of
    arithmetic."""
    generator = torch.Generator().manual_seed(9)
    width = width_of(module, weight) or 64
    own = None if weight is None else random((width,), generator)
    sizes = *(2, 4, 3)[: len(order) - 1], width
    back = [order.index(dim) for dim in range(len(order))]
    x = random([sizes[dim] for dim in order], generator).permute(back)
    return run_own(module, twin_with(module, own), x).stride() == x.stride()


def is_autocast(module: nn.Module, weight: Tensor | None) -> bool:
    """Whether autocast on a GPU gives the norm of a tensor of 16 bits another dtype."""
    width = width_of(module, weight) or 64
    for dtype in (torch.bfloat16, torch.float32):  # of the weight
        own = None if weight is None else torch.ones(width, dtype=dtype)
        twin, x = twin_with(module, own), torch.ones(2, width, dtype=torch.bfloat16)
        plain = run_own(module, twin, x).dtype
        with AutocastOfGpus():
            if run_own(module, twin, x).dtype != plain:
                return True
    return False


def rms_proof(
    module: nn.Module, norm: ProvedRmsNorm, weight: Tensor | None, guard: Guard
) -> NormProof:
    form = norm.form
    eps = epsilon_of(module, form.epsilon)
    if weight is None:

        def run(self, x):
            epsilon = epsilon_of(self, form.epsilon)
            return in_order_of(x, lambda x: functional.rms_norm(x, None, epsilon))

        width = width_of(module, weight)

        def takes(self, x):
            tried = (x.dtype, x.dtype) in norm.dtypes
            tried = tried and not norm.has_another_dtype(x)
            tried = tried and (width is None or x.shape[-1:] == (width,))
            ordered = x.is_contiguous() or (norm.keeps_order and has_order(x))
            return tried and (ordered or (norm.keeps_columns and is_worth_copies(x, None)))

        return NormProof("rms_norm", guarded(run, guard, takes), guard, run)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight, eps, form.offset, form.mode, form.promote)

    meta = norm_meta_call("rms_norm", call, (weight,), (form.mode, form.offset))
    forward = guarded(norm.__call__, guard, norm.takes_alone)
    return NormProof("rms_norm", forward, guard, norm, meta, norm=norm)


def layer_proof(
    module: nn.Module, form: LayerForm, dtypes: frozenset, weight: Tensor | None, guard: Guard
) -> NormProof:
    norm = ProvedLayerNorm(
        is_autocast=is_autocast(module, weight),
        # The operator computes in float64 there, and the form in float32.
        dtypes=dtypes - {(torch.float64, torch.float64)},
        vectors=() if weight is None else ("weight",),
        epsilon=form.epsilon,
    )
    eps = epsilon_of(module, form.epsilon)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return functional.layer_norm(x, weight, None, eps)

    vectors = () if weight is None else (weight,)
    meta = norm_meta_call("layer_norm", call, vectors, ("written out",)) if vectors else None
    forward = guarded(norm.__call__, guard, norm.takes_alone)
    return NormProof("layer_norm", forward, guard, norm, meta, norm=norm)


def prove_offset(module: nn.LayerNorm) -> NormProof | Refusal:
    """One of torch's with a forward of its own."""
    try:
        norm, guard = find_offset(module, epsilons(module))
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    eps = epsilon_of(module, norm.epsilon)

    def call(x: Tensor, *vectors: Tensor) -> Tensor:
        return functional.layer_norm(x, *vectors, eps=eps)

    vectors = tuple(getattr(module, name) for name in norm.vectors)
    meta = norm_meta_call("layer_norm", call, vectors, ())
    forward = guarded(norm.__call__, guard, norm.takes_alone)
    return NormProof("layer_norm", forward, guard, norm, meta, norm=norm)


def prove_layer_norm(module: nn.LayerNorm) -> NormProof | Refusal:
    if len(module.normalized_shape) != 1:
        return Refusal("normalises over more than one dimension")
    names = tuple(name for name in ("weight", "bias") if getattr(module, name) is not None)
    # Under CUDA's autocast torch normalises in float32, and its result is of that type.
    norm = ProvedLayerNorm(
        is_autocast=True,
        dtypes=frozenset((dtype, dtype) for dtype in (*DTYPES, torch.float64)),
        vectors=names,
        epsilon="eps",
    )
    eps = module.eps

    def call(x: Tensor, *vectors: Tensor) -> Tensor:
        return functional.layer_norm(x, *vectors, eps=eps)

    vectors = tuple(getattr(module, name) for name in names)
    try:
        guard = guard_of(module, tensors=names)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    meta = norm_meta_call("layer_norm", call, vectors, ()) if vectors else None
    forward = guarded(norm.__call__, guard, norm.takes)
    return NormProof("layer_norm", forward, guard, norm, meta, norm=norm)


def confirm(module: nn.Module, proof: NormProof) -> NormProof | Refusal:
    """The operator itself against the module's own forward, on its device and in its dtype."""
    count = 2 if proof.role == GATED else 1
    device, dtype = live_device(module), compute_dtype(module)
    generator = torch.Generator().manual_seed(5)
    twin = twin_of(module)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            value = random(parameter.shape, generator, parameter.dtype).to(device)
            twin._parameters[name] = nn.Parameter(value)
    width = getattr(module, "normalized_shape", None) or [64]
    width = next((p.shape[0] for p in twin._parameters.values() if p is not None), width[0])
    inputs = [random((4, width), generator, dtype).to(device) for _ in range(count)]
    weights = [p for p in twin._parameters.values() if p is not None]
    own = own_class_forward(module)
    try:
        assert_same(
            lambda *x: own(twin, *x),
            lambda *x: proof.run(twin, *x),
            inputs,
            weights,
            "the operator",
        )
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    return proof


def norm_meta_call(op: str, call, vectors: tuple, details: tuple) -> MetaCall:
    width, dtype = vectors[0].shape[0], vectors[0].dtype
    count = len(vectors)

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        call(empty(batch, tokens, width), *(empty(width) for _ in range(count))).sum().backward()

    return MetaCall(op, (width, dtype, count, *details), run)


NORM: Rule[NormProof] = Rule(
    "norm", ("rms_norm", GATED, "layer_norm"), is_norm, group_of, prove, confirm
)
