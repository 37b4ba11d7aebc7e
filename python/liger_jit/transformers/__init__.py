"""Liger Kernel's modules under their names, and the functions that put them into models."""

from typing import Any

from .attn_res import LigerAttnRes
from .cross_entropy import LigerCrossEntropyLoss
from .functional import CrossEntropyOutput
from .fused_add_rms_norm import LigerFusedAddRMSNorm
from .fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss
from .geglu import LigerGEGLUMLP
from .layer_norm import LigerLayerNorm
from .mhc import LigerMHC
from .rms_norm import (
    LigerRMSNorm,
    LigerRMSNormForGemma,
    LigerRMSNormForGemma2,
    LigerRMSNormForGemma3,
    LigerRMSNormForGlm4,
    LigerRMSNormForOlmo2,
    LigerRMSNormForQwen3Next,
)
from .rope import liger_rotary_pos_emb
from .swiglu import (
    LigerBlockSparseTop2MLP,
    LigerPhi3SwiGLUMLP,
    LigerQwen3MoeSwiGLUMLP,
    LigerSwiGLUMLP,
)

__all__ = [
    "AutoLigerKernelForCausalLM",
    "CrossEntropyOutput",
    "LigerAttnRes",
    "LigerBlockSparseTop2MLP",
    "LigerCrossEntropyLoss",
    "LigerFusedAddRMSNorm",
    "LigerFusedLinearCrossEntropyLoss",
    "LigerGEGLUMLP",
    "LigerLayerNorm",
    "LigerMHC",
    "LigerPhi3SwiGLUMLP",
    "LigerQwen3MoeSwiGLUMLP",
    "LigerRMSNorm",
    "LigerRMSNormForGemma",
    "LigerRMSNormForGemma2",
    "LigerRMSNormForGemma3",
    "LigerRMSNormForGlm4",
    "LigerRMSNormForOlmo2",
    "LigerRMSNormForQwen3Next",
    "LigerSwiGLUMLP",
    "liger_rotary_pos_emb",
]

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
