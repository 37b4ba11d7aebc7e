"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from .add_norm import fused_add_layer_norm
from .attention import multi_token_attention, neighborhood_attention
from .distillation import DistillationOutput, fused_linear_distillation, fused_linear_jsd
from .divergence import ce_tvd, jsd, kl_div, tvd
from .dyt import dyt
from .embedding import embedding
from .experts import experts
from .gated_norm import gated_rms_norm
from .group_norm import group_norm
from .int2 import int2_matmul, pack_int2, unpack_int2
from .kto import KTOOutput, fused_linear_kto
from .linear_kl_div import fused_linear_kl_div
from .log_probs import linear_log_probs, selective_log_softmax
from .loss import CrossEntropyOutput, cross_entropy, fused_linear_cross_entropy
from .mhc import mhc_coeffs, mhc_forward, mhc_post_res, mhc_pre
from .mlp import (
    activate,
    clamped_swiglu,
    gated_mlp,
    geglu,
    packed_glu,
    swiglu,
    tiled_mlp,
)
from .modulated_norm import modulated_rms_norm
from .norm import fused_add_rms_norm, layer_norm, rms_norm
from .norm_add import layer_norm_add, rms_norm_add
from .pairs import ORPOOutput, fused_linear_cpo, fused_linear_orpo, fused_linear_simpo
from .policy import PolicyLoss, fused_linear_grpo, policy_loss
from .poly_norm import poly_norm
from .ppo import PPOOutput, linear_ppo_loss
from .preference import DPOOutput, fused_linear_dpo
from .relu_squared import relu_squared
from .residual import attn_res
from .rope import complex_rope, full_qk_norm_rope, mrope, qk_norm_rope, rope
from .softmax import softmax, sparsemax
from .vocab_parallel import vocab_parallel_cross_entropy
from .vocab_parallel_log_probs import vocab_parallel_log_probs

__all__ = [
    "rms_norm",
    "fused_add_rms_norm",
    "layer_norm",
    "fused_add_layer_norm",
    "group_norm",
    "poly_norm",
    "dyt",
    "rms_norm_add",
    "layer_norm_add",
    "gated_rms_norm",
    "modulated_rms_norm",
    "swiglu",
    "geglu",
    "relu_squared",
    "packed_glu",
    "clamped_swiglu",
    "activate",
    "gated_mlp",
    "tiled_mlp",
    "experts",
    "rope",
    "mrope",
    "complex_rope",
    "qk_norm_rope",
    "full_qk_norm_rope",
    "attn_res",
    "embedding",
    "neighborhood_attention",
    "multi_token_attention",
    "int2_matmul",
    "pack_int2",
    "unpack_int2",
    "mhc_coeffs",
    "mhc_pre",
    "mhc_post_res",
    "mhc_forward",
    "CrossEntropyOutput",
    "cross_entropy",
    "fused_linear_cross_entropy",
    "DistillationOutput",
    "fused_linear_distillation",
    "fused_linear_jsd",
    "fused_linear_kl_div",
    "vocab_parallel_cross_entropy",
    "PolicyLoss",
    "policy_loss",
    "fused_linear_grpo",
    "selective_log_softmax",
    "linear_log_probs",
    "vocab_parallel_log_probs",
    "PPOOutput",
    "linear_ppo_loss",
    "DPOOutput",
    "fused_linear_dpo",
    "fused_linear_cpo",
    "fused_linear_simpo",
    "ORPOOutput",
    "fused_linear_orpo",
    "KTOOutput",
    "fused_linear_kto",
    "kl_div",
    "jsd",
    "tvd",
    "ce_tvd",
    "softmax",
    "sparsemax",
]
