"""RMSNorm modulated by a scale and a shift, as a module."""

from torch import nn

from ..ops import choice, choices
from .functional import liger_modulated_rms_norm
from .rms_norm import initial_weight


class LigerModulatedRMSNorm(nn.Module):
    """norm(hidden_states) * (1 + scale) + shift, as `liger_jit.functional.modulated_rms_norm`;
    `in_place` does nothing: inputs are never changed."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        in_place=True,
        elementwise_affine=True,
    ):
        super().__init__()
        op = "modulated_rms_norm"
        choice(op, "casting_mode", casting_mode, choices(op, "casting_mode"))
        weight = initial_weight(self, hidden_size, init_fn) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.offset = offset
        self.casting_mode = casting_mode
        self.in_place = in_place
        self.elementwise_affine = elementwise_affine

    def forward(self, hidden_states, scale, shift=None):
        return liger_modulated_rms_norm(
            hidden_states,
            self.weight,
            scale,
            shift,
            self.variance_epsilon,
            self.offset,
            self.casting_mode,
        )

    def extra_repr(self):
        return (
            f"{self.hidden_size}, eps={self.variance_epsilon}, offset={self.offset}, "
            f"casting_mode={self.casting_mode!r}"
        )
