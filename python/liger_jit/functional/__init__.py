"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from .divergence import ce_tvd, jsd, kl_div, tvd
from .loss import CrossEntropyOutput, cross_entropy, fused_linear_cross_entropy
from .mlp import gated_mlp, geglu, swiglu
from .norm import fused_add_rms_norm, layer_norm, rms_norm
from .rope import qk_norm_rope, rope
from .softmax import softmax, sparsemax

__all__ = [
    "rms_norm",
    "fused_add_rms_norm",
    "layer_norm",
    "swiglu",
    "geglu",
    "gated_mlp",
    "rope",
    "qk_norm_rope",
    "CrossEntropyOutput",
    "cross_entropy",
    "fused_linear_cross_entropy",
    "kl_div",
    "jsd",
    "tvd",
    "ce_tvd",
    "softmax",
    "sparsemax",
]
