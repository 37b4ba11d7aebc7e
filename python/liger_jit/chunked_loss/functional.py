"""The losses as functions, with Liger Kernel's order of arguments."""

from .cosine_similarity_loss import LigerFusedLinearCosineSimilarityFunction
from .dpo_loss import LigerFusedLinearDPOFunction
from .grpo_loss import LigerFusedLinearGRPOFunction
from .jsd_loss import LigerFusedLinearJSDFunction

liger_fused_linear_cosine = LigerFusedLinearCosineSimilarityFunction.apply
liger_fused_linear_dpo = LigerFusedLinearDPOFunction.apply
liger_fused_linear_grpo = LigerFusedLinearGRPOFunction.apply
liger_fused_linear_jsd = LigerFusedLinearJSDFunction.apply
