"""Liger Kernel's losses behind a linear layer under their names, on liger_jit's operators.

Arguments that steer an implementation which does not exist here are accepted and do nothing:
`compiled`, and `chunk_size` (chunks are chosen from the sizes). A module's options are read at each
forward, under the names of its constructor. What each loss computes stands in
`liger_jit.functional`.
"""

from .cosine_similarity_loss import LigerFusedLinearCosineSimilarityLoss
from .dpo_loss import LigerFusedLinearDPOLoss
from .grpo_loss import LigerFusedLinearGRPOLoss
from .jsd_loss import LigerFusedLinearJSDLoss

__all__ = [
    "LigerFusedLinearCosineSimilarityLoss",
    "LigerFusedLinearDPOLoss",
    "LigerFusedLinearGRPOLoss",
    "LigerFusedLinearJSDLoss",
]
