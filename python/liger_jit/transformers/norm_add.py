"""Norms whose result is added to a residual, as modules. Liger Kernel has none."""

from ..functional import layer_norm_add, rms_norm_add
from .layer_norm import LigerLayerNorm
from .rms_norm import LigerRMSNorm


class LigerRMSNormAdd(LigerRMSNorm):
    """residual + norm(hidden_states), as `liger_jit.functional.rms_norm_add`; arguments and weight
    are those of LigerRMSNorm."""

    def forward(self, hidden_states, residual):
        return rms_norm_add(
            hidden_states,
            residual,
            self.weight,
            self.variance_epsilon,
            self.offset,
            self.casting_mode,
        )


class LigerLayerNormAdd(LigerLayerNorm):
    """residual + norm(hidden_states), as `liger_jit.functional.layer_norm_add`; arguments and
    parameters are those of LigerLayerNorm."""

    def forward(self, hidden_states, residual):
        return layer_norm_add(
            hidden_states, residual, self.weight, self.bias, self.variance_epsilon
        )
