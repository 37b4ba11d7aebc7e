"""RMS norms with a gate, of linear attention and state space layers: `forward(x, gate)`.

Which form a module computes is found as that of other norms is: float32 settles what is normalised
and gated in which order, 16 bits settle where it rounds, and each combination of dtypes is tried
for itself. A call without the gate runs the module's own forward.
"""

import inspect
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import functional
from ...meta_calls import MetaCall
from ..autocasting import AutocastOfGpus
from ..guard import guard_of
from ..installed import guarded
from ..probe import (
    Mismatch,
    assert_same,
    random,
    relative_error,
    twin_of,
)
from ..rule import Refusal, own_class_forward
from ..source.reading import read
from .memory_order import has_rows, is_in_order
from .proved_norm import DTYPES, PROBES, NormProof

ROLE = "gated_rms_norm"
# Of the tensors of a forward that asks for it: sequences of a batch.
RANK = 3
# What rounds elsewhere differs by more.
SAME_ROUNDING = 1e-5
ACTIVATIONS = {"silu": F.silu, "sigmoid": torch.sigmoid}
Dtypes = tuple[torch.dtype, torch.dtype, torch.dtype]


@dataclass(frozen=True)
class GatedForm:
    """See `functional.gated_rms_norm`. epsilon, group: names of attributes; group is None where a
    row is normalised as a whole, and is_count says that it has the number of groups."""

    activation: str
    gate_first: bool
    mode: str
    epsilon: str
    group: str | None
    is_count: bool = False

    def options(self, module: nn.Module) -> tuple[str, bool, int | None, str]:
        size = None if self.group is None else getattr(module, self.group)
        if self.is_count:
            size = module._parameters["weight"].shape[0] // size
        return self.activation, self.gate_first, size, self.mode

    def run(self, module: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
        eps = getattr(module, self.epsilon)
        return functional.gated_rms_norm(x, gate, module.weight, eps, 0.0, *self.options(module))

    def reference(self, module: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
        """The same in plain torch."""
        _, _, size, _ = self.options(module)
        activated = ACTIVATIONS[self.activation](gate.float())
        v = x.float() * activated if self.gate_first else x.float()
        groups = v.unflatten(-1, (-1, size or v.shape[-1]))
        eps = getattr(module, self.epsilon)
        groups = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + eps)
        v = groups.flatten(-2)
        v = module.weight * (v.to(x.dtype) if self.mode == "llama" else v)
        return (v if self.gate_first else v * activated).to(x.dtype)


def takes_gate(module: nn.Module) -> bool:
    """Whether its forward takes a second tensor and says that it is a gate."""
    names = list(inspect.signature(own_class_forward(module)).parameters)
    return len(names) == 3 and "gate" in names[2]


def prove_gated(module: nn.Module) -> NormProof | Refusal:
    weight = module._parameters.get("weight")
    if weight is None or module._parameters.get("bias") is not None:
        return Refusal("a gated norm without a weight, or with a bias")
    try:
        # Read before it is run, as other norms are.
        found = read(module, type(module).forward, count=2, rank=RANK)
        guard = guard_of(module, tensors=("weight",), found=found)
        form = find_form(module, weight.shape[0], forms_of(dict(guard.values), weight.shape[0]))
        check_gradients(module, form, weight.shape[0], found.is_of_rank)
        check_autocast(module, weight.shape[0])
        tried = dtypes_of(module, form, weight.shape[0])
    except Mismatch as mismatch:
        return Refusal(str(mismatch))

    def takes(self, x: Tensor, gate: Tensor) -> bool:
        # Not `self.weight`: this is asked before every call.
        own = self._parameters["weight"]
        if x.shape != gate.shape or x.shape[-1:] != own.shape or gate.device != x.device:
            return False
        if found.is_of_rank and x.dim() != RANK:
            return False
        if not is_in_order(x) or not has_rows(gate):
            return False
        return (x.dtype, gate.dtype, own.dtype) in tried

    forward = guarded(form.run, guard, takes, count=2)
    return NormProof(ROLE, forward, guard, form.run, meta_call(module, form, weight))


def forms_of(read: dict[str, object], width: int) -> list[GatedForm]:
    """All that the attributes which the forward reads allow."""
    epsilons = [name for name, value in read.items() if type(value) is float and value > 0]
    groups = [name for name, value in read.items() if type(value) is int and divides(value, width)]
    groupings = [(None, False), *itertools.product(groups, (False, True))]
    return [
        GatedForm(*each, *grouping)
        for *each, grouping in itertools.product(
            ACTIVATIONS, (True, False), ("llama", "none"), epsilons, groupings
        )
    ]


def divides(value: int, width: int) -> bool:
    return 0 < value <= width and width % value == 0


def twin_with(module: nn.Module, width: int, dtype: torch.dtype, scale: float = 1.0) -> nn.Module:
    generator = torch.Generator().manual_seed(19)
    return twin_of(module, {"weight": nn.Parameter(random((width,), generator, dtype) * scale)})


def run_gated(module: nn.Module, twin: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    try:
        own = own_class_forward(module)(twin, x, gate)
    except Exception as error:
        raise Mismatch(f"its own forward failed in the probe: {error}") from error
    if not isinstance(own, Tensor):
        raise Mismatch("its forward does not return one tensor")
    return own


def error_of(module: nn.Module, form: GatedForm, width: int, dtypes: Dtypes) -> float:
    """The largest of a row."""
    x_dtype, gate_dtype, weight_dtype = dtypes
    generator = torch.Generator().manual_seed(7)
    # Rows from tiny to large, so that a wrong epsilon shows, and squares that float16 cannot hold.
    rows = torch.logspace(-4, 3, 8, device="cpu").reshape(2, 4, 1)
    x = (random((2, 4, width), generator) * rows).to(x_dtype)
    gate = random((2, 4, width), generator, gate_dtype)
    twin = twin_with(module, width, weight_dtype)
    own, found = run_gated(module, twin, x, gate), form.reference(twin, x, gate)
    if own.shape != found.shape:
        return float("inf")
    pairs = zip(found.flatten(0, -2), own.flatten(0, -2), strict=True)
    return max(relative_error(*pair) for pair in pairs)


def find_form(module: nn.Module, width: int, forms: list[GatedForm]) -> GatedForm:
    """The form whose float32 values and roundings to 16 bits are the module's."""
    for dtype in DTYPES:
        errors = {form: error_of(module, form, width, (dtype,) * 3) for form in forms}
        best = min(errors.values(), default=float("inf"))
        if not best <= SAME_ROUNDING:
            raise Mismatch(
                f"no known gated norm computes what it does (closest differs by {best:.1e} in "
                f"{dtype})"
            )
        forms = [form for form, error in errors.items() if error <= SAME_ROUNDING]
    return forms[0]


def dtypes_of(module: nn.Module, form: GatedForm, width: int) -> frozenset[Dtypes]:
    """(of x, gate, weight): those in which the form rounds as the module does."""
    tried = (*itertools.product(DTYPES, repeat=3), (torch.float64,) * 3)
    return frozenset(each for each in tried if error_of(module, form, width, each) <= SAME_ROUNDING)


def check_gradients(module: nn.Module, form: GatedForm, width: int, is_of_rank: bool) -> None:
    """On inputs of each number of dimensions that it takes, of many rows, and of large and small
    values."""
    generator = torch.Generator().manual_seed(3)
    for leading, scale, of_weight, _ in PROBES:
        if not leading or (is_of_rank and len(leading) + 1 != RANK):
            continue
        twin = twin_with(module, width, torch.float32, of_weight)
        inputs = [random((*leading, width), generator) * scale for _ in range(2)]
        assert_same(
            lambda x, gate, twin=twin: run_gated(module, twin, x, gate),
            lambda x, gate, twin=twin: form.reference(twin, x, gate),
            inputs,
            [twin.weight],
            "the formula",
        )


def check_autocast(module: nn.Module, width: int) -> None:
    """Raises Mismatch if autocast on a GPU gives it another dtype."""
    for dtype in (torch.bfloat16, torch.float32):  # of the weight
        twin, x = twin_with(module, width, dtype), torch.ones(2, width, dtype=torch.bfloat16)
        plain = run_gated(module, twin, x, x).dtype
        with AutocastOfGpus():
            if run_gated(module, twin, x, x).dtype != plain:
                raise Mismatch("autocast on a GPU gives it another dtype")


def meta_call(module: nn.Module, form: GatedForm, weight: Tensor) -> MetaCall:
    width, dtype = weight.shape[0], weight.dtype
    eps, options = getattr(module, form.epsilon), form.options(module)

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        x, gate = (empty(batch, tokens, width) for _ in range(2))
        functional.gated_rms_norm(x, gate, empty(width), eps, 0.0, *options).sum().backward()

    return MetaCall(ROLE, (width, dtype, *options), run)
