"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from .loss import CrossEntropyOutput, cross_entropy, fused_linear_cross_entropy
from .mlp import (
    activate,
    clamped_swiglu,
    gated_mlp,
    geglu,
    packed_glu,
    swiglu,
    tiled_mlp,
)
from .norm import fused_add_rms_norm, layer_norm, rms_norm
from .rope import qk_norm_rope, rope

__all__ = [
    "rms_norm",
    "fused_add_rms_norm",
    "layer_norm",
    "swiglu",
    "geglu",
    "packed_glu",
    "clamped_swiglu",
    "activate",
    "gated_mlp",
    "tiled_mlp",
    "rope",
    "qk_norm_rope",
    "CrossEntropyOutput",
    "cross_entropy",
    "fused_linear_cross_entropy",
]
