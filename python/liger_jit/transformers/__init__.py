"""Liger Kernel's modules under their names, and the functions that put them into models."""

from typing import Any

from .cross_entropy import LigerCrossEntropyLoss
from .functional import CrossEntropyOutput
from .fused_add_rms_norm import LigerFusedAddRMSNorm
from .fused_ce_tvd import LigerFusedCETVDLoss
from .fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss
from .geglu import LigerGEGLUMLP
from .jsd import LigerJSD
from .kl_div import LigerKLDIVLoss
from .layer_norm import LigerLayerNorm
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
from .softmax import LigerSoftmax
from .sparsemax import LigerSparsemax
from .swiglu import (
    LigerBlockSparseTop2MLP,
    LigerPhi3SwiGLUMLP,
    LigerQwen3MoeSwiGLUMLP,
    LigerSwiGLUMLP,
)
from .tvd import LigerTVDLoss

__all__ = [
    "AutoLigerKernelForCausalLM",
    "CrossEntropyOutput",
    "LigerBlockSparseTop2MLP",
    "LigerCrossEntropyLoss",
    "LigerFusedAddRMSNorm",
    "LigerFusedCETVDLoss",
    "LigerFusedLinearCrossEntropyLoss",
    "LigerGEGLUMLP",
    "LigerJSD",
    "LigerKLDIVLoss",
    "LigerLayerNorm",
    "LigerPhi3SwiGLUMLP",
    "LigerQwen3MoeSwiGLUMLP",
    "LigerRMSNorm",
    "LigerRMSNormForGemma",
    "LigerRMSNormForGemma2",
    "LigerRMSNormForGemma3",
    "LigerRMSNormForGlm4",
    "LigerRMSNormForOlmo2",
    "LigerRMSNormForQwen3Next",
    "LigerSoftmax",
    "LigerSparsemax",
    "LigerSwiGLUMLP",
    "LigerTVDLoss",
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
