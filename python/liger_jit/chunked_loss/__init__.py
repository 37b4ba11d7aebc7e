"""Liger Kernel's losses behind a linear layer under their names, on liger_jit's operators.

Arguments that steer an implementation which does not exist here are accepted and do nothing:
`compiled`, and `chunk_size` (chunks are chosen from the sizes). A module's options are read at each
forward, under the names of its constructor. What each loss computes stands in
`liger_jit.functional`.
"""

from .cosine_similarity_loss import LigerFusedLinearCosineSimilarityLoss
from .cpo_loss import LigerFusedLinearCPOLoss
from .dpo_loss import LigerFusedLinearDPOLoss
from .grpo_loss import LigerFusedLinearGRPOLoss
from .jsd_loss import LigerFusedLinearJSDLoss
from .kto_loss import LigerFusedLinearKTOLoss
from .orpo_loss import LigerFusedLinearORPOLoss
from .simpo_loss import LigerFusedLinearSimPOLoss

__all__ = [
    "LigerFusedLinearCosineSimilarityLoss",
    "LigerFusedLinearCPOLoss",
    "LigerFusedLinearDPOLoss",
    "LigerFusedLinearGRPOLoss",
    "LigerFusedLinearJSDLoss",
    "LigerFusedLinearKTOLoss",
    "LigerFusedLinearORPOLoss",
    "LigerFusedLinearSimPOLoss",
]
