"""The losses as functions, with Liger Kernel's order of arguments."""

from .dpo_loss import LigerFusedLinearDPOFunction
from .grpo_loss import LigerFusedLinearGRPOFunction

liger_fused_linear_dpo = LigerFusedLinearDPOFunction.apply
liger_fused_linear_grpo = LigerFusedLinearGRPOFunction.apply
