"""Running an MLP's own forward on projections of true widths without true weights, gated or not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..guard import Guard, guard_of, is_hooked
from ..probe import (
    LONG,
    OUTLYING,
    OUTPUT_ERROR,
    TINY,
    Mismatch,
    SparseLinear,
    assert_same,
    random,
    relative_error,
    run_own,
    tensor_inputs,
    twin_of,
)
from ..rule import Refusal, own_class_forward
from ..source.reading import read

PROBE_SHAPES = ((1, 3), (2, 37), (5,))
PROBED_DIMS = (2, 3)
# The rows of pictures, as towers have them that attend in windows.
PICTURES = ((2, 3, 5),)
# (|x|, weights of the first projection or half, of the second): products that float16 cannot hold
# or that are far from it, and factors one of which is too large to be scaled.
SMALL = 2.0**-16
OVERFLOWING = ((200.0, 1.0, 1.0), (400.0, 1.0, 1.0), (32000.0, SMALL, 1.0), (32000.0, 1.0, SMALL))
CPU = torch.device("cpu")


def widths_of(projection: nn.Module) -> tuple[int, int] | None:
    """(in, out) features of a linear layer of any make, GPT-2's Conv1D among them."""
    into, out = (getattr(projection, name, None) for name in ("in_features", "out_features"))
    if into is None:
        into, out = (getattr(projection, name, None) for name in ("nx", "nf"))
    return (into, out) if isinstance(into, int) and isinstance(out, int) else None


def takes_of(module: nn.Module, names: tuple[str, ...], formula: Callable) -> Callable:
    """What tells of an input whether a probe had as many dimensions: a forward may flatten some,
    and bring back others. The formula was proved to be the module's in all but those of pictures.
    """
    dims = PROBED_DIMS
    try:
        check(module, names, CPU, torch.float32, formula=formula, leading=PICTURES)
        dims = (*dims, 4)
    except Mismatch:  # these are left to it
        pass
    return lambda module, x: x.dim() in dims


def others_of(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name not in names]


def activation_of(module: nn.Module, names: tuple[str, ...]) -> str:
    found = (type(child).__name__ for child in others_of(module, names))
    return ", ".join(found) or "a function"


def read_mlp(module: nn.Module, names: tuple[str, ...]) -> Guard | Refusal:
    """The guard of a replacement that calls these projections. Runs nothing: what has effects would
    have them on what the module shares with a twin."""
    if tensor_inputs(own_class_forward(module)) != 1:
        return Refusal("its forward takes more than one input")
    if any(map(is_hooked, others_of(module, names))):
        return Refusal("its activation has hooks, which a fused gate would not call")
    try:
        found = read(module, own_class_forward(module))
        guard = guard_of(module, called=names, found=found)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    # What cancels in exact arithmetic keeps a product of 16 bits from being infinite.
    return Refusal(f"it scales what it computes: {found.scales}") if found.scales else guard


def check_formula(module: nn.Module, names: tuple[str, ...], formula: Callable) -> tuple[str, ...]:
    """As `check`, on the CPU and in the dtypes that tell formulas apart."""
    order = names
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        order = check(module, names, CPU, dtype, formula=formula)
    check_overflow(module, names, formula)
    check_narrowed(module, names, formula)
    return order


def check(
    module: nn.Module,
    names: tuple[str, ...],
    device: torch.device,
    dtype: torch.dtype,
    run: Callable | None = None,
    formula: Callable | None = None,
    leading: tuple[tuple[int, ...], ...] = PROBE_SHAPES,
) -> tuple[str, ...]:
    """`Mismatch` unless the candidate equals the module's own forward on sparse projections, and
    gives each of them the same, in value and dtype: what cancels after one may keep it from
    overflowing. Returns the projections' names in the order in which the module calls them.

    The candidate is `formula(x, *projections)` in plain torch if that is given, else
    `run(module, x)`. leading: dimensions of inputs, before those of a row.
    """
    generator = torch.Generator().manual_seed(13)
    projections = stand_ins(module, names, generator, dtype, device)
    calls: list[tuple[nn.Module, Tensor]] = []
    for projection in projections.values():
        projection.calls = calls
    width = widths_of(module._modules[names[0]])[0]
    # More than one sequence, and of another number of tokens than any that a forward would name.
    inputs = [random((*shape, width), generator, dtype).to(device) for shape in leading]
    if formula and dtype is torch.float32 and leading is PROBE_SHAPES:
        inputs += [random((1, 3, width), generator) * size for size in (OUTLYING, TINY)]
        inputs.append(random((1, LONG, width), generator))
    twin = twin_of(module, modules=projections)

    own: list[tuple[nn.Module, Tensor]] = []
    ours: list[tuple[nn.Module, Tensor]] = []

    def original(x: Tensor) -> Tensor:
        calls.clear()
        y = run_own(module, twin, x)
        own[:] = calls
        return y

    def candidate(x: Tensor) -> Tensor:
        calls.clear()
        y = formula(x, *projections.values()) if formula else run(twin, x)
        ours[:] = calls
        return y

    weights = [projection.weight for projection in projections.values()]
    what = "the formula" if formula else "the operator"
    for x in inputs:
        if x.dim() == 2 and not accepts(module, twin, x):
            continue
        assert_same(original, candidate, [x], weights, what)
        assert_given(dict(own), dict(ours))
    order = [projection for projection, _ in own]
    if len(order) != len(names):
        raise Mismatch("it calls a projection more than once")
    named = {projection: name for name, projection in projections.items()}
    return tuple(named[projection] for projection in order)


def stand_ins(
    module: nn.Module,
    names: tuple[str, ...],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    kind: type[SparseLinear] = SparseLinear,
) -> dict[str, SparseLinear]:
    """In place of the module's projections, of their widths."""
    widths = {name: widths_of(module._modules[name]) for name in names}
    return {name: kind(*pair, generator).to(device, dtype) for name, pair in widths.items()}


def assert_given(own: dict[nn.Module, Tensor], ours: dict[nn.Module, Tensor]) -> None:
    """`Mismatch` unless each projection was given the same rows."""
    for projection, x in ours.items():
        found = own.get(projection)
        if found is None:
            raise Mismatch("it does not call all of its projections")
        # A forward may flatten the dimensions before the last one.
        error = relative_error(found.flatten(0, -2), x.flatten(0, -2))
        if not error <= OUTPUT_ERROR[x.dtype]:
            raise Mismatch(f"what it gives a projection differs by {error:.1e} ({found.dtype})")


def check_overflow(module: nn.Module, names: tuple[str, ...], formula: Callable) -> None:
    """`Mismatch` unless in float16 it is infinite where the formula is, and nowhere else."""
    generator = torch.Generator().manual_seed(29)
    width = widths_of(module._modules[names[0]])[0]
    signs = random((1, 3, width), generator, torch.float16).sign()
    for size, *factors in OVERFLOWING:
        projections = stand_ins(module, names, generator, torch.float16)
        inner = [projections[name].weight.data for name in names[:-1]]
        twin = twin_of(module, modules=projections)
        with torch.no_grad():
            for projection in projections.values():
                projection.weight.sign_()
            for part, factor in zip(inner if len(inner) == 2 else inner[0].chunk(2), factors):
                part.mul_(factor)
            found = run_own(module, twin, signs * size)
            expected = formula(signs * size, *projections.values())
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
            raise Mismatch("the formula: other values of it are infinite in float16")


def check_narrowed(module: nn.Module, names: tuple[str, ...], formula: Callable) -> None:
    """`Mismatch` unless it gives the dtype that the formula gives where projections give another
    than they get, as autocast's do."""
    generator = torch.Generator().manual_seed(31)
    projections = stand_ins(module, names, generator, kind=NarrowingLinear)
    x = random((1, 3, widths_of(module._modules[names[0]])[0]), generator)
    twin = twin_of(module, modules=projections)
    with torch.no_grad():
        found, expected = run_own(module, twin, x), formula(x, *projections.values())
    if found.dtype != expected.dtype:
        raise Mismatch(
            f"it gives {found.dtype} where its projections give {expected.dtype}, as in autocast"
        )
    error = relative_error(found, expected)
    if not error <= OUTPUT_ERROR[expected.dtype]:
        raise Mismatch(f"the formula, with projections that narrow: differs by {error:.1e}")


class NarrowingLinear(SparseLinear):
    """As autocast makes a projection of float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(torch.bfloat16)


def accepts(module: nn.Module, twin: nn.Module, x: Tensor) -> bool:
    """Whether its forward takes rows without sequences as well."""
    try:
        run_own(module, twin, x)
    except Mismatch:
        return False
    return True
