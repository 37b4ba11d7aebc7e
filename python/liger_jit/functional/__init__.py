"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from .attention import multi_token_attention, neighborhood_attention
from .dyt import dyt
from .embedding import embedding
from .group_norm import group_norm
from .loss import CrossEntropyOutput, cross_entropy, fused_linear_cross_entropy
from .mlp import gated_mlp, geglu, swiglu
from .norm import fused_add_rms_norm, layer_norm, rms_norm
from .poly_norm import poly_norm
from .relu_squared import relu_squared
from .residual import attn_res
from .rope import complex_rope, mrope, qk_norm_rope, rope

__all__ = [
    "rms_norm",
    "fused_add_rms_norm",
    "layer_norm",
    "group_norm",
    "poly_norm",
    "dyt",
    "swiglu",
    "geglu",
    "relu_squared",
    "gated_mlp",
    "rope",
    "mrope",
    "complex_rope",
    "qk_norm_rope",
    "attn_res",
    "embedding",
    "neighborhood_attention",
    "multi_token_attention",
    "CrossEntropyOutput",
    "cross_entropy",
    "fused_linear_cross_entropy",
]
