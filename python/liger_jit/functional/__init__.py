"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from .loss import CrossEntropyOutput, cross_entropy, fused_linear_cross_entropy
from .mhc import mhc_coeffs, mhc_forward, mhc_post_res, mhc_pre
from .mlp import gated_mlp, geglu, swiglu
from .norm import fused_add_rms_norm, layer_norm, rms_norm
from .residual import attn_res
from .rope import qk_norm_rope, rope

__all__ = [
    "rms_norm",
    "fused_add_rms_norm",
    "layer_norm",
    "swiglu",
    "geglu",
    "gated_mlp",
    "rope",
    "qk_norm_rope",
    "attn_res",
    "mhc_coeffs",
    "mhc_pre",
    "mhc_post_res",
    "mhc_forward",
    "CrossEntropyOutput",
    "cross_entropy",
    "fused_linear_cross_entropy",
]
