"""Liger Kernel's modules under their names, and the functions that put them into models."""

from importlib import util
from typing import Any

from .attn_res import LigerAttnRes
from .cross_entropy import LigerCrossEntropyLoss
from .dyt import LigerDyT
from .functional import CrossEntropyOutput
from .fused_add_rms_norm import LigerFusedAddRMSNorm
from .fused_ce_tvd import LigerFusedCETVDLoss
from .fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss
from .fused_linear_jsd import LigerFusedLinearJSD
from .fused_linear_kl_div import LigerFusedLinearKLDivLoss
from .fused_neighborhood_attention import (
    LigerFusedNeighborhoodAttention,
    LigerFusedNeighborhoodAttentionConfig,
    LigerFusedNeighborhoodAttentionLayer,
)
from .geglu import LigerGEGLUMLP, LigerGEGLUMLPForGemma4
from .group_norm import LigerGroupNorm
from .jsd import LigerJSD
from .kl_div import LigerKLDIVLoss
from .layer_norm import LigerLayerNorm
from .llama4_rope import liger_llama4_text_rotary_pos_emb, liger_llama4_vision_rotary_pos_emb
from .mhc import LigerMHC
from .mlp import LigerFalconH1MLP, LigerMLP
from .modulated_rms_norm import LigerModulatedRMSNorm
from .moe import LigerExpertParallelFusedMoe
from .multi_token_attention import LigerMultiTokenAttention
from .norm_add import LigerLayerNormAdd, LigerRMSNormAdd
from .poly_norm import LigerPolyNorm
from .qwen2vl_mrope import liger_multimodal_rotary_pos_emb
from .relu_squared import LigerReLUSquared
from .rms_norm import (
    LigerRMSNorm,
    LigerRMSNormForGemma,
    LigerRMSNormForGemma2,
    LigerRMSNormForGemma3,
    LigerRMSNormForGlm4,
    LigerRMSNormForMuseGlimmer,
    LigerRMSNormForMuseGlimmerTextCentered,
    LigerRMSNormForOlmo2,
    LigerRMSNormForQwen3Next,
)
from .rms_norm_gated import LigerRMSNormGated
from .rope import liger_rotary_pos_emb
from .softmax import LigerSoftmax
from .sparsemax import LigerSparsemax
from .swiglu import (
    LigerBlockSparseTop2MLP,
    LigerExperts,
    LigerFalconH1SwiGLUMLP,
    LigerHunyuanV1SwiGLUMLP,
    LigerPhi3SwiGLUMLP,
    LigerQwen3MoeSwiGLUMLP,
    LigerSwiGLUMLP,
    LigerSwiGLUMLPForMuseGlimmer,
)
from .tiled_mlp import LigerTiledGEGLUMLP, LigerTiledSwiGLUMLP
from .tvd import LigerTVDLoss
from .vocab_parallel_cross_entropy import LigerVocabParallelCrossEntropy

__all__ = [
    "AutoLigerKernelForCausalLM",
    "CrossEntropyOutput",
    "LigerAttnRes",
    "LigerBlockSparseTop2MLP",
    "LigerCrossEntropyLoss",
    "LigerDyT",
    "LigerExpertParallelFusedMoe",
    "LigerExperts",
    "LigerFalconH1MLP",
    "LigerFalconH1SwiGLUMLP",
    "LigerFusedAddRMSNorm",
    "LigerFusedCETVDLoss",
    "LigerFusedLinearCrossEntropyLoss",
    "LigerFusedLinearJSD",
    "LigerFusedLinearKLDivLoss",
    "LigerFusedNeighborhoodAttention",
    "LigerFusedNeighborhoodAttentionConfig",
    "LigerFusedNeighborhoodAttentionLayer",
    "LigerGEGLUMLP",
    "LigerGEGLUMLPForGemma4",
    "LigerGroupNorm",
    "LigerHunyuanV1SwiGLUMLP",
    "LigerJSD",
    "LigerKLDIVLoss",
    "LigerLayerNorm",
    "LigerLayerNormAdd",
    "LigerMHC",
    "LigerMLP",
    "LigerModulatedRMSNorm",
    "LigerMultiTokenAttention",
    "LigerPhi3SwiGLUMLP",
    "LigerPolyNorm",
    "LigerQwen3MoeSwiGLUMLP",
    "LigerRMSNorm",
    "LigerRMSNormAdd",
    "LigerRMSNormForGemma",
    "LigerRMSNormForGemma2",
    "LigerRMSNormForGemma3",
    "LigerRMSNormForGlm4",
    "LigerRMSNormForMuseGlimmer",
    "LigerRMSNormForMuseGlimmerTextCentered",
    "LigerRMSNormForOlmo2",
    "LigerRMSNormForQwen3Next",
    "LigerRMSNormGated",
    "LigerReLUSquared",
    "LigerSoftmax",
    "LigerSparsemax",
    "LigerSwiGLUMLP",
    "LigerSwiGLUMLPForMuseGlimmer",
    "LigerTVDLoss",
    "LigerTiledGEGLUMLP",
    "LigerTiledSwiGLUMLP",
    "LigerVocabParallelCrossEntropy",
    "is_transformers_available",
    "liger_llama4_text_rotary_pos_emb",
    "liger_llama4_vision_rotary_pos_emb",
    "liger_multimodal_rotary_pos_emb",
    "liger_rotary_pos_emb",
]


def is_transformers_available() -> bool:
    """Whether there is a package that the patch functions can patch."""
    return util.find_spec("transformers") is not None


# Imported on first use only: they import the transformers package, which the modules do without.
_LATE = ("apply_liger_kernel_to_", "revert_liger_kernel_to_", "_apply_liger_kernel", "MODEL_TYPE_")


def __getattr__(name: str) -> Any:
    if name == "AutoLigerKernelForCausalLM":
        from .auto_model import AutoLigerKernelForCausalLM

        return AutoLigerKernelForCausalLM
    if name.startswith(_LATE):
        from . import monkey_patch

        return getattr(monkey_patch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from . import monkey_patch

    return sorted({*globals(), *__all__, *monkey_patch.__all__})
