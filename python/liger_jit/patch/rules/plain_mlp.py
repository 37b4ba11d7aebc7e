"""The rule for MLPs without a gate: down(act(up(x))), of decoders, towers and projectors.

Only the activation is replaced: both projections are called as modules, with their biases. In a
forward that does more, such as dropout, its call alone is (`activation_call`). What a
model writes as several operations (the tanh form of GELU, quick GELU, a squared ReLU) is one then.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import functional
from ...meta_calls import MetaCall
from ..guard import is_usable
from ..installed import guarded, switched
from ..probe import Mismatch, compute_dtype, live_device, tensor_inputs
from ..rule import Proof, Refusal, Rule, group_of, own_class_forward
from . import activation_call
from .mlp_probe import activation_of, check, check_formula, read_mlp, takes_of, widths_of


@dataclass(frozen=True)
class Activation:
    """The operator, and the same in plain torch."""

    role: str
    name: str
    operator: Callable[[Tensor], Tensor]
    formula: Callable[[Tensor], Tensor]


def activate(name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.activate(x, name)


def relu_squared(x: Tensor) -> Tensor:
    return functional.relu_squared(x)


ACTIVATIONS = (
    Activation("relu_squared", "relu_squared", relu_squared, lambda x: F.relu(x).square()),
    Activation(
        "activation",
        "gelu_tanh",
        activate("gelu_tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    Activation("activation", "gelu", activate("gelu"), F.gelu),
    Activation(
        "activation",
        "quick_gelu",
        activate("quick_gelu"),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    Activation("activation", "silu", activate("silu"), F.silu),
)


# What torch does in one operation anyway.
OF_TORCH = ("gelu", "silu")


def names_of(module: nn.Module) -> tuple[str, str] | None:
    """The names of the projections: the only two linear layers, of which the second takes what the
    first gives; beside them nothing that has parameters."""
    linear = {name: widths_of(child) for name, child in module.named_children()}
    linear = {name: widths for name, widths in linear.items() if widths}
    if len(linear) != 2 or next(iter(module._parameters), None) is not None:
        return None
    others = [child for name, child in module.named_children() if name not in linear]
    if any(next(child.parameters(), None) is not None for child in others):
        return None
    (up, (_, width)), (down, (into, _)) = linear.items()
    return (up, down) if width == into else None


def is_plain_mlp(module: nn.Module) -> bool:
    return names_of(module) is not None and tensor_inputs(own_class_forward(module)) == 1


@dataclass(frozen=True, eq=False, kw_only=True)
class ActivationProof(Proof):
    names: tuple[str, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class CallProof(ActivationProof):
    """Of the call of that child alone, in a forward that is the module's own but for it."""

    call: tuple[Activation, str]


def prove(module: nn.Module) -> ActivationProof | Refusal:
    names = names_of(module)
    guard = read_mlp(module, names)
    if isinstance(guard, Refusal):
        return prove_call(module, names, guard)
    for activation in ACTIVATIONS:
        formula = formula_of(activation)
        try:
            check_formula(module, names, formula)
        except Mismatch:
            continue
        run = mlp_run(names, activation)
        meta = meta_call(module, names, activation)
        forward = guarded(run, guard, takes_of(module, names, formula))
        return ActivationProof(activation.role, forward, guard, run, meta, names=names)
    return Refusal(
        f"no known activation computes what it does (activation: {activation_of(module, names)})"
    )


def formula_of(activation: Activation) -> Callable:
    return lambda x, up, down: down(activation.formula(up(x)))


def mlp_run(names: tuple[str, str], activation: Activation) -> Callable:
    up, down = names

    def run(self, x):
        hidden = getattr(self, up)(x)
        usable = is_usable(hidden)
        return getattr(self, down)((activation.operator if usable else activation.formula)(hidden))

    return run


def prove_call(
    module: nn.Module, names: tuple[str, str], refusal: Refusal
) -> ActivationProof | Refusal:
    """Of an MLP that does more, such as dropout: the call of its activation alone is replaced, by
    an operator where torch has several."""
    others = {name for name, child in module.named_children() if name not in names}
    child = activation_call.called_once(module, others - dropouts(module))
    if child is None:
        return refusal
    try:
        guard = activation_call.guard_of_call(module, child)
    except Mismatch:
        return refusal
    for activation in ACTIVATIONS:
        if activation.name in OF_TORCH:
            continue
        try:
            activation_call.check_formula(module._modules[child], activation.formula)
            run = activation_call.with_call(module, child, activation.operator, guard)
        except Mismatch:
            continue
        more = {"names": names, "call": (activation, child)}
        meta = meta_call(module, names, activation)
        return CallProof(activation.role, switched(run, guard), guard, run, meta, **more)
    return refusal


def dropouts(module: nn.Module) -> set[str]:
    return {name for name, child in module.named_children() if isinstance(child, nn.Dropout)}


def confirm(module: nn.Module, proof: ActivationProof) -> ActivationProof | Refusal:
    try:
        if isinstance(proof, CallProof):
            activation, child = proof.call
            where = live_device(module), compute_dtype(module)
            activation_call.compare(module._modules[child], activation.operator, *where)
            return proof
        check(module, proof.names, live_device(module), compute_dtype(module), run=proof.run)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    return proof


def meta_call(module: nn.Module, names: tuple[str, str], activation: Activation) -> MetaCall:
    width, dtype = widths_of(module._modules[names[0]])[1], compute_dtype(module)

    def run(batch: int, tokens: int) -> None:
        shape = batch, tokens, width
        x = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
        activation.operator(x).sum().backward()

    return MetaCall(activation.role, (width, dtype, activation.name), run)


PLAIN_MLP: Rule[ActivationProof] = Rule(
    "mlp", ("relu_squared", "activation"), is_plain_mlp, group_of, prove, confirm
)
