"""The residual addition and RMSNorm that follow each other in a decoder layer, as one module."""

from torch import nn

from ..ops import choice, choices
from .functional import liger_fused_add_rms_norm
from .rms_norm import initial_weight


class LigerFusedAddRMSNorm(nn.Module):
    """(normalised sum, sum) of hidden_states and residual; `in_place` does nothing.

    See `functional.liger_fused_add_rms_norm`.
    """

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        in_place=False,
    ):
        super().__init__()
        choice(
            "fused_add_rms_norm",
            "casting_mode",
            casting_mode,
            choices("fused_add_rms_norm", "casting_mode"),
        )
        self.weight = initial_weight(self, hidden_size, init_fn)
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.offset = offset
        self.casting_mode = casting_mode
        self.in_place = in_place

    def forward(self, hidden_states, residual):
        return liger_fused_add_rms_norm(
            hidden_states,
            residual,
            self.weight,
            self.variance_epsilon,
            self.offset,
            self.casting_mode,
        )

    def extra_repr(self):
        return (
            f"{self.hidden_size}, eps={self.variance_epsilon}, offset={self.offset}, "
            f"casting_mode={self.casting_mode!r}"
        )
