"""Running an MLP's own forward on projections of true widths without true weights, gated or not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..guard import Guard, guard_of, is_hooked
from ..probe import (
    LONG,
    OUTLYING,
    Mismatch,
    SparseLinear,
    assert_same,
    random,
    run_own,
    set_mode,
    tensor_inputs,
    twin_of,
)
from ..rule import Refusal, own_class_forward
from ..source.reading import read

PROBE_SHAPES = ((1, 3), (2, 37), (5,))
PROBED_DIMS = (2, 3)
CPU = torch.device("cpu")


def widths_of(projection: nn.Module) -> tuple[int, int] | None:
    """(in, out) features of a linear layer of any make."""
    into, out = (getattr(projection, name, None) for name in ("in_features", "out_features"))
    return (into, out) if isinstance(into, int) and isinstance(out, int) else None


def takes(module: nn.Module, x: Tensor) -> bool:
    """Whether a probe had as many dimensions: a forward may flatten some, and bring back others."""
    return x.dim() in PROBED_DIMS


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
    return order


def check(
    module: nn.Module,
    names: tuple[str, ...],
    device: torch.device,
    dtype: torch.dtype,
    run: Callable | None = None,
    formula: Callable | None = None,
) -> tuple[str, ...]:
    """`Mismatch` unless the candidate equals the module's own forward on sparse projections; the
    names of these in the order in which that calls them.

    The candidate is `formula(x, *projections)` in plain torch if that is given, else
    `run(module, x)`.
    """
    generator = torch.Generator().manual_seed(13)
    projections = {
        name: SparseLinear(*widths_of(module._modules[name]), generator).to(device, dtype)
        for name in names
    }
    called: list[nn.Module] = []
    for projection in projections.values():
        projection.order = called
    width = widths_of(module._modules[names[0]])[0]
    # More than one sequence, and of another number of tokens than any that a forward would name.
    inputs = [random((*leading, width), generator, dtype).to(device) for leading in PROBE_SHAPES]
    if formula and dtype is torch.float32:
        inputs.append(random((1, 3, width), generator) * OUTLYING)
        inputs.append(random((1, LONG, width), generator))
    twin = twin_of(module, modules=projections)

    def candidate(x: Tensor) -> Tensor:
        return formula(x, *projections.values()) if formula else run(twin, x)

    def original(x: Tensor) -> Tensor:
        called.clear()
        return run_own(module, twin, x)

    weights = [projection.weight for projection in projections.values()]
    orders = []
    for training in (True, False):
        set_mode(twin, training)
        what = "the formula" if formula else "the operator"
        for x in inputs:
            if x.shape[-2] == LONG and not training:
                continue  # what is read knows no number of tokens: once is enough
            if x.dim() == 2 and not accepts(module, twin, x):
                continue
            assert_same(original, candidate, [x], weights, what)
        original(inputs[0])
        orders.append(list(called))
    if orders[0] != orders[1] or len(orders[0]) != len(names):
        raise Mismatch("it calls its projections in no order of its own")
    named = {projection: name for name, projection in projections.items()}
    return tuple(named[projection] for projection in orders[0])


def accepts(module: nn.Module, twin: nn.Module, x: Tensor) -> bool:
    """Whether its forward takes rows without sequences as well."""
    try:
        run_own(module, twin, x)
    except Mismatch:
        return False
    return True
