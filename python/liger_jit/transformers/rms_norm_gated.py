"""RMSNorm with a gate, as a module. Liger Kernel has none."""

from torch import nn

from ..functional import gated_rms_norm
from ..ops import choice, choices
from .rms_norm import initial_weight


class LigerRMSNormGated(nn.Module):
    """norm(hidden_states) gated by act(gate), as `liger_jit.functional.gated_rms_norm`, whose table
    says which arguments are those of which model. The weight is `weight`, as in those models."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        activation="silu",
        gate_first=False,
        group_size=None,
    ):
        super().__init__()
        for option, value in (("casting_mode", casting_mode), ("activation", activation)):
            choice("gated_rms_norm", option, value, choices("gated_rms_norm", option))
        self.weight = initial_weight(self, hidden_size, init_fn)
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.offset = offset
        self.casting_mode = casting_mode
        self.activation = activation
        self.gate_first = gate_first
        self.group_size = group_size

    def forward(self, hidden_states, gate):
        return gated_rms_norm(
            hidden_states,
            gate,
            self.weight,
            self.variance_epsilon,
            self.offset,
            self.activation,
            self.gate_first,
            self.group_size,
            self.casting_mode,
        )

    def extra_repr(self):
        return (
            f"{self.hidden_size}, eps={self.variance_epsilon}, offset={self.offset}, "
            f"casting_mode={self.casting_mode!r}, activation={self.activation!r}, "
            f"gate_first={self.gate_first}, group_size={self.group_size}"
        )
