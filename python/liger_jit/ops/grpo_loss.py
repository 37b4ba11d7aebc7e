"""What is imported from `liger_kernel.ops.grpo_loss`."""

from ..transformers.grpo_loss import fused_selective_log_softmax

__all__ = ["fused_selective_log_softmax"]
