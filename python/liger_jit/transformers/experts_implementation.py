"""The experts' implementation "liger_jit" of transformers, for models that are not patched."""

import torch
from torch import nn

from ..patch.guard import is_hooked
from ..patch.probe import Mismatch
from ..patch.rules.expert_gate import ALPHA, LIMITS, ExpertGate, gate_of
from ..patch.rules.experts import check_layout, experts_run

NAME = "liger_jit"
# What is known of gates: by all that a class's `_apply_gate` depends on.
_gates: dict[tuple, ExpertGate] = {}


def register_experts_implementation() -> None:
    """Makes `model.set_experts_implementation("liger_jit")` known to transformers.

    All classes that transformers dispatches so then run `functional.experts`, if their layout and
    gate are some that it has; else a call raises ValueError. `patch` does the same with a proof for
    each module and without a setting.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def experts_forward(
    self: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The module's forward, [tokens, H] as `hidden_states`."""
    key = (
        type(self),
        *(getattr(self, name, None) for name in (*LIMITS, ALPHA)),
        of_activation(self),
    )
    gate = _gates.get(key)
    try:
        check_layout(self)
        if gate is None:
            gate = _gates[key] = gate_of(self)
    except Mismatch as mismatch:
        raise ValueError(
            f"liger_jit::experts: {type(self).__name__}: {mismatch}; allowed: another experts' "
            "implementation"
        ) from None
    return experts_run(gate)(self, hidden_states, top_k_index, top_k_weights)


def of_activation(module: nn.Module) -> object:
    """What tells its activation from others: its class, or the function that it is."""
    activation = getattr(module, "act_fn", None)
    if not isinstance(activation, nn.Module):
        return activation
    if is_hooked(activation):
        raise ValueError(
            f"liger_jit::experts: {type(module).__name__}: its activation has hooks, which no "
            "operator calls; allowed: another experts' implementation"
        )
    return type(activation)
