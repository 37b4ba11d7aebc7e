"""The rule for a residual sum and the norm that follows it or stands before it, in the forward of a
decoder layer.

The layer's forward stays its own, but for the statements that make a sum and norm it, which become
one call of `add_and_norm` (`add_norm_source`), and those that norm what a block gives and add that,
which become one of `norm_and_add` (`norm_add_source`). At each call the sum goes into the norm's
kernel if the norm is patched and nothing else is hooked to it; if not, both are done as they were.
So are those that one node could not give: a sum without history, or in another order in memory.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from ...meta_calls import MetaCall
from ..guard import guard_of_rewritten, is_plain, is_usable
from ..installed import switched
from ..probe import Mismatch, assert_same, compute_dtype, live_device, twin_of
from ..rule import CompoundRule, Parts, Proof, Refusal, group_of, own_class_forward
from ..source.definition import NO_SOURCE, definition_of
from .add_norm_source import norms_after_sums, rewritten, shown_sums
from .layer_probe import LayerProbe
from .norm import NORM, is_norm
from .norm_add_source import norms_before_sums
from .proved_norm import NormProof, ProvedLayerNorm, ProvedNorm, ProvedRmsNorm, norm_of

KINDS = (ProvedRmsNorm, ProvedLayerNorm)
# A layer that has its norms before its sums alone gets a post-norm role.
ROLES = tuple(role for kind in KINDS for role in (kind.sum_role, kind.post_norm_role))


def add_and_norm(norm: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(left + right), left + right)."""
    ours = norm_of(norm)  # first, as a mode that is on sees what is asked of tensors as well
    usable = ours is not None and is_plain(left) and is_plain(right) and left.dtype == right.dtype
    usable = usable and left.shape == right.shape and is_usable(left) and ours.takes(norm, left)
    if not usable or not is_one_node(left, right, norm):
        total = left + right
        return norm(total), total
    return ours.after_add(norm, left, right)


def norm_and_add(norm: nn.Module, x: Tensor, residual: Tensor, is_left: bool) -> Tensor:
    """residual + norm(x), with the norm's result on that side."""
    ours = norm_of(norm)
    alike = ours is not None and is_plain(x) and is_plain(residual) and x.dtype == residual.dtype
    alike = alike and x.shape == residual.shape and x.is_contiguous() and residual.is_contiguous()
    if not alike or not (is_usable(x) and is_usable(residual)) or not ours.takes(norm, x):
        normed = norm(x)
        return normed + residual if is_left else residual + normed
    return ours.then_add(norm, x, residual)


def is_one_node(left: Tensor, right: Tensor, norm: nn.Module) -> bool:
    """Whether the sum has a history if the norm has one, and lies in memory as the operator's."""
    if not (left.is_contiguous() and right.is_contiguous()):
        return False
    if left.requires_grad or right.requires_grad or not torch.is_grad_enabled():
        return True
    return not any(one is not None and one.requires_grad for one in norm._parameters.values())


def is_layer(module: nn.Module) -> bool:
    """Whether its forward gives a sum to one of its norms, or it looks as if it might: it has norms
    and other children that are made of something."""
    children = module._modules
    if not children or own_class_forward(module) is nn.Module.forward:
        return False
    parts = [child for child in children.values() if child is not None]
    given = map(children.get, norms_beside_sums(own_class_forward(module)))
    if any(child is not None and is_norm(child) for child in given):
        return True
    larger = [one for one in parts if one._modules and not hasattr(one, "in_features")]
    linear = [one for one in parts if hasattr(one, "in_features")]
    normed = any(map(is_norm, parts))
    return normed and len(larger) > 1 and not linear and not holds_layers(module)


def norms_beside_sums(forward: FunctionType) -> tuple[str, ...]:
    return (*norms_after_sums(forward), *norms_before_sums(forward))


def holds_layers(module: nn.Module) -> bool:
    """Whether it is a model around a list of parts that have norms themselves."""
    lists = (one for one in module.modules() if isinstance(one, nn.ModuleList))
    return any(is_norm(part) for one in lists for part in one.modules())


def group(module: nn.Module) -> Hashable:
    own = own_class_forward(module)
    places = str(live_device(module)), compute_dtype(module)
    # What a forward branches on; not numbers, of which one is the layer's own.
    switches = tuple(
        (name, value)
        for name, value in module.__dict__.items()
        if type(value) in (bool, str) and name != "training"
    )
    children = tuple((name, type(child)) for name, child in module.named_children())
    beside = [module._modules.get(name) for name in norms_beside_sums(own)]
    return own, places, switches, children, *(group_of(norm) for norm in beside if norm is not None)


@dataclass(frozen=True, eq=False, kw_only=True)
class AddNormProof(Proof):
    """norms: the answers about the layer's norms, by name; None for a child that is no norm."""

    norms: dict[str, NormProof | Refusal | None]


def prove(module: nn.Module, proved: Parts) -> AddNormProof | Refusal:
    own = own_class_forward(module)
    if definition_of(own) is None:
        return Refusal(NO_SOURCE)
    proofs = {
        name: proved(NORM, child) if NORM.match(child) else None
        for name, child in module.named_children()
    }
    names, reason = norms_that_take(module, proofs)
    before = norms_that_add(module, proofs)
    if not names and not before:
        return Refusal(reason)
    reached = []

    def seen(function):
        def call(*inputs):
            reached.append(inputs)
            return function(*inputs)

        return call

    try:
        forward = rewritten(own, names, add_and_norm, before, norm_and_add)
        watched = rewritten(own, names, seen(add_and_norm), before, seen(norm_and_add))
        check(module, watched, proofs, torch.device("cpu"), torch.float32, operators=False)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    if not reached:
        return Refusal("its forward, as it is set, does not come to the sum before its norm")
    guard = guard_of_rewritten(own)
    first = (names or before)[0]
    norm = proofs[first].norm
    role = norm.sum_role if names else norm.post_norm_role
    meta = meta_call(role, module._modules[first], norm)
    return AddNormProof(role, switched(forward, guard), guard, forward, meta, norms=proofs)


def norms_that_take(module: nn.Module, proofs: dict) -> tuple[tuple[str, ...], str]:
    """Of the children that get a sum, those whose kernel takes it; and why there is none."""
    names, reasons = [], []
    given = norms_after_sums(own_class_forward(module))
    uses = shown_sums(own_class_forward(module))
    for name in given:
        proof = proofs.get(name)
        if proof is None:
            reasons.append(f"the sum goes to {name}, which is no norm")
        elif isinstance(proof, Refusal):
            reasons.append(f"{name}: {proof.reason}")
        elif proof.norm is None:
            reasons.append(f"{name} is a norm whose kernel takes no sum")
        elif name in uses:
            reasons.append(f"the sum before {name} is more than a term after it: `{uses[name]}`")
        else:
            names.append(name)
    if not given:
        reasons.append("no norm in its forward is called on a sum made there")
    return tuple(names), "; ".join(reasons)


def norms_that_add(module: nn.Module, proofs: dict) -> tuple[str, ...]:
    """The children whose result is added to something, and whose kernel does that as well."""
    return tuple(
        name
        for name in norms_before_sums(own_class_forward(module))
        if isinstance(proof := proofs.get(name), NormProof) and proof.norm is not None
    )


def confirm(module: nn.Module, proof: AddNormProof, confirmed: Parts) -> AddNormProof | Refusal:
    device, dtype = live_device(module), compute_dtype(module)
    try:
        check(module, proof.run, proof.norms, device, dtype)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    return proof


def check(
    module: nn.Module,
    forward: FunctionType,
    proofs: dict,
    device: torch.device,
    dtype: torch.dtype,
    operators: bool = True,
) -> None:
    """`Mismatch` unless the rewritten forward gives what the class's own gives on stand-ins.

    Without `operators` it calls the norms' own forwards.
    """
    probe = LayerProbe(module, proofs, device, dtype)
    outputs, arguments = probe.way_that_works()
    plain, patched = probe.twin(outputs), probe.twin(outputs, operators)
    own = own_class_forward(module)
    assert_same(
        lambda x: probe.call(own, plain, arguments, x),
        lambda x: probe.call(forward, patched, arguments, x),
        [probe.x],
        probe.weights,
        "the layer",
    )


def meta_call(role: str, norm: nn.Module, proved: ProvedNorm) -> MetaCall | None:
    """None for a norm without weights, which do not say of what dtype its rows are."""
    own = {name: one for name, one in norm._parameters.items() if one is not None}
    if not own:
        return None
    dtype = next(iter(own.values())).dtype
    (width,) = next(iter(own.values())).shape
    # Plain ones: `empty_like` of a sharded parameter would be sharded.
    on_meta = {
        name: nn.Parameter(torch.empty(one.shape, dtype=one.dtype, device="meta"))
        for name, one in own.items()
    }
    twin = twin_of(norm, on_meta)

    def run(batch: int, tokens: int) -> None:
        def empty():
            return torch.empty(batch, tokens, width, dtype=dtype, device="meta", requires_grad=True)

        if role == proved.post_norm_role:
            proved.then_add(twin, empty(), empty()).sum().backward()
            return
        y, total = proved.after_add(twin, empty(), empty())
        (y + total).sum().backward()

    return MetaCall(role, (width, dtype, *own), run)


ADD_NORM: CompoundRule[AddNormProof] = CompoundRule(
    "add_norm", ROLES, is_layer, group, prove, confirm
)
