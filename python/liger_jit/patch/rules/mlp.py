"""The rule for gated MLPs: down(act(gate(x)) * up(x)), with gate and up apart or in one projection.

Where the projections are plain linear layers the whole becomes one node (`whole_mlp`). Elsewhere
only act(gate) * up is replaced: the projections are still called as modules, so adapters, packed
weights and hooks on them keep working. In a forward that does more (dropout, factors, clamps) it is
replaced where it stands (`gate_call`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import functional
from ...meta_calls import MetaCall
from ..guard import is_usable
from ..installed import guarded, switched
from ..probe import Mismatch, compute_dtype, live_device
from ..rule import Proof, Refusal, Rule, group_of
from ..source.torchs_own import replaced_linear
from . import activation_call, gate_call
from .mlp_probe import activation_of, check, check_formula, read_mlp, takes_of, widths_of
from .whole_mlp import check_whole, is_whole, whole_meta_call, whole_run

# Names of (gate, up, down), or of (both in one, down), that gated MLPs give their projections.
APART = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("linear_1", "linear_v", "w2"))
TOGETHER = (("gate_up_proj", "down_proj"), ("fc1", "fc2"), ("up_gate_proj", "down_proj"))
# The role of an MLP that is one node.
WHOLE = "gated_mlp"


@dataclass(frozen=True)
class Gate:
    """An activation times its neighbour: the operator, and the same in plain torch.

    `name` is the activation's in `functional.gated_mlp`.
    """

    role: str
    name: str
    operator: Callable[[Tensor, Tensor], Tensor]
    activation: Callable[[Tensor], Tensor]


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    return functional.geglu(gate, up, "tanh")


def geglu_exact(gate: Tensor, up: Tensor) -> Tensor:
    return functional.geglu(gate, up, "none")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.swiglu(gate, up)


GATES = (
    Gate("swiglu", "silu", swiglu, F.silu),
    Gate("geglu", "gelu_tanh", geglu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    Gate("geglu", "gelu", geglu_exact, F.gelu),
)


def names_of(module: nn.Module) -> tuple[str, ...] | None:
    """The names of the projections, or None if the module is not built like a gated MLP."""
    for names in (*APART, *TOGETHER):
        children = [module._modules.get(name) for name in names]
        if all(child is not None and widths_of(child) for child in children):
            if names not in TOGETHER:
                return names
            # A plain MLP has two projections as well; a gated one halves the width between them.
            if widths_of(children[0])[1] == 2 * widths_of(children[1])[0]:
                return names
    return None


def is_glu(module: nn.Module) -> bool:
    return names_of(module) is not None


@dataclass(frozen=True, eq=False, kw_only=True)
class GateProof(Proof):
    """Of act(gate) * up alone. names: those of the projections, which are called as modules."""

    names: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class GateCallProof(GateProof):
    """Of that gate, with that child for its activation, in a forward that is the module's own but
    for it."""

    call: tuple[Gate, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class WholeProof(GateProof):
    """Of an MLP as one node, where its projections are plain. apart: of its gate alone."""

    apart: GateProof

    @property
    def otherwise(self) -> GateProof:
        return self.apart


def prove(module: nn.Module) -> GateProof | Refusal:
    names = names_of(module)
    guard = read_mlp(module, names)
    if isinstance(guard, Refusal):
        return prove_call(module, names, guard)
    gate, up_first, order = find_gate(module, names)
    if gate is None:
        found = activation_of(module, names)
        return Refusal(f"no known gate computes what it does (activation: {found})")
    run = glu_run(names, gate, up_first, order)
    meta = meta_call(module, names, gate)
    takes = takes_of(module, names, formula_of(gate, up_first))
    proof = GateProof(gate.role, guarded(run, guard, takes), guard, run, meta, names=names)
    if up_first:
        return replace(proof, missed=(WHOLE, "in its one weight up comes before gate"))
    return as_one_node(module, gate, proof, takes)


def prove_call(module: nn.Module, names: tuple[str, ...], refusal: Refusal) -> GateProof | Refusal:
    """Of an MLP that does more than its formula: act(gate) * up in its own forward."""
    others = {name for name, _ in module.named_children()} - {*names}
    child = gate_call.gate_of(module, others)
    if child is None:
        return refusal
    try:
        guard = activation_call.guard_of_call(module, child)
    except Mismatch:
        return refusal
    for gate in GATES:
        try:
            activation_call.check_formula(module._modules[child], gate.activation)
            run = gate_call.with_gate(module, child, gate.operator, guard)
        except Mismatch:
            continue
        more = {"names": names, "call": (gate, child), "missed": (WHOLE, refusal.reason)}
        meta = meta_call(module, names, gate)
        return GateCallProof(gate.role, switched(run, guard), guard, run, meta, **more)
    return refusal


def as_one_node(
    module: nn.Module, gate: Gate, apart: GateProof, takes: Callable[[nn.Module, Tensor], bool]
) -> WholeProof:
    """The proof of act(gate) * up alone, taken for the whole MLP."""
    if reason := replaced_linear():
        return replace(apart, missed=(WHOLE, reason))
    names = apart.names
    run = whole_run(names, gate.name, apart.run)
    inputs = widths_of(module._modules[names[0]])[0]
    width, outputs = widths_of(module._modules[names[-1]])
    meta = apart.meta
    if is_whole(module, names):
        sizes = inputs, width, outputs
        meta = whole_meta_call(sizes, compute_dtype(module), gate.name, len(names) == 2)
    guard = apart.guard
    forward = guarded(run, guard, takes)
    return WholeProof(gate.role, forward, guard, run, meta, names=names, apart=apart)


def confirm(module: nn.Module, proof: GateProof) -> GateProof | Refusal:
    names = proof.names
    device, dtype = live_device(module), compute_dtype(module)
    if isinstance(proof, GateCallProof):
        gate, child = proof.call
        try:
            gate_call.compare(module._modules[child], gate.operator, device, dtype)
        except Mismatch as mismatch:
            return Refusal(str(mismatch))
        return proof
    apart = proof.apart if isinstance(proof, WholeProof) else proof
    try:
        check(module, names, device, dtype, run=apart.run)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    if apart is proof:
        return proof
    width = widths_of(module._modules[names[-1]])[0]
    try:
        check_whole(module, names, width, proof.run, device, dtype)
    except Mismatch as mismatch:
        return replace(apart, missed=(WHOLE, str(mismatch)))
    return proof


def find_gate(
    module: nn.Module, names: tuple[str, ...]
) -> tuple[Gate | None, bool, tuple[str, ...]]:
    """(gate, whether up comes first in one weight, names in the order in which they are called):
    the gate whose formula is the module's own."""
    for gate in GATES:
        for up_first in (False, True) if len(names) == 2 else (False,):
            try:
                order = check_formula(module, names, formula_of(gate, up_first))
            except Mismatch:
                continue
            return gate, up_first, order
    return None, False, names


def formula_of(gate: Gate, up_first: bool) -> Callable:
    """Of a tensor and of the projections: the gated MLP in plain torch."""

    def formula(x: Tensor, *projections: nn.Module) -> Tensor:
        *inner, down = projections
        halves = [inner[0](x), inner[1](x)] if len(inner) == 2 else inner[0](x).chunk(2, -1)
        g, u = reversed(halves) if up_first else halves
        return down(gate.activation(g) * u)

    return formula


def glu_run(names: tuple[str, ...], gate: Gate, up_first: bool, order: tuple[str, ...]) -> Callable:
    """The projections called in that order: dropout of adapters draws its numbers by it."""

    def gated(gate_part: Tensor, up_part: Tensor) -> Tensor:
        alike = gate_part.shape == up_part.shape and gate_part.dtype == up_part.dtype
        if alike and is_usable(gate_part) and is_usable(up_part):
            return gate.operator(gate_part, up_part)
        # What the projections gave is no longer what they gave to the probe.
        return gate.activation(gate_part) * up_part

    if len(names) == 3:
        first, second, down_name = order
        gate_is_first = first == names[0]

        def run(self, x):
            one, other = getattr(self, first)(x), getattr(self, second)(x)
            hidden = gated(one, other) if gate_is_first else gated(other, one)
            return getattr(self, down_name)(hidden)
    else:
        both_name, down_name = names
        gate_half = 1 if up_first else 0

        def run(self, x):
            halves = getattr(self, both_name)(x).chunk(2, dim=-1)
            return getattr(self, down_name)(gated(halves[gate_half], halves[1 - gate_half]))

    return run


def meta_call(module: nn.Module, names: tuple[str, ...], gate: Gate) -> MetaCall:
    width, dtype = widths_of(module._modules[names[-1]])[0], compute_dtype(module)
    packed = len(names) == 2

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        if packed:
            halves = empty(batch, tokens, 2 * width).chunk(2, dim=-1)
        else:
            halves = empty(batch, tokens, width), empty(batch, tokens, width)
        gate.operator(*halves).sum().backward()

    return MetaCall(gate.role, (width, dtype, gate.name, packed), run)


GLU: Rule[GateProof] = Rule("glu", ("swiglu", "geglu"), is_glu, group_of, prove, confirm)
