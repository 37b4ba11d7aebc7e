"""Group relative policy optimisation and its kin, of hidden states and a head."""

import torch

from ..functional import fused_linear_grpo
from .module import ChunkedLoss, options


class LigerFusedLinearGRPOFunction:
    """`functional.fused_linear_grpo` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        selected_token_ids,
        attention_mask,
        advantages,
        bias=None,
        ref_per_token_logps=None,
        old_per_token_logps=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        beta=0.04,
        epsilon_low=0.2,
        epsilon_high=0.2,
        loss_type="dapo",
        max_completion_length=None,
        importance_sampling_level="token",
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        temperature=1.0,
        compiled=True,
        use_ref_model=True,
        chunk_size=1,
        vllm_is_ratio=None,
        delta=None,
        use_bias_correction_kl=False,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
        num_items_in_batch=None,
    ):
        """(loss, metrics): the divergence from the reference unless beta is 0, the share of clipped
        tokens; all float32 on the device, of no dimension.

        The denominator of dapo, cispo and vespo is the number of tokens of all ranks, or
        num_items_in_batch, over the number of ranks. Without num_items_in_batch the ranks tell each
        other theirs.
        """
        if use_ref_model and ref_per_token_logps is None and ref_input is None:
            raise ValueError(
                "LigerFusedLinearGRPOFunction: use_ref_model is True, and neither "
                "ref_per_token_logps nor ref_input is given; allowed: one of them, or "
                "use_ref_model=False"
            )
        if loss_type == "dr_grpo" and max_completion_length is None:
            raise ValueError(
                "LigerFusedLinearGRPOFunction: loss_type='dr_grpo' and max_completion_length is "
                "None; allowed: the number of tokens that a loss is divided by"
            )
        loss, kl, clip_ratio = fused_linear_grpo(
            _input,
            weight,
            selected_token_ids,
            attention_mask,
            advantages,
            bias,
            ref_per_token_logps if use_ref_model else None,
            old_per_token_logps,
            vllm_is_ratio,
            ref_input if use_ref_model else None,
            ref_weight,
            ref_bias,
            loss_type,
            importance_sampling_level,
            beta,
            use_bias_correction_kl,
            epsilon_low,
            epsilon_high,
            delta,
            sapo_temperature_pos,
            sapo_temperature_neg,
            vespo_k_pos,
            vespo_lambda_pos,
            vespo_k_neg,
            vespo_lambda_neg,
            max_completion_length,
            items_of_a_rank(loss_type, attention_mask, num_items_in_batch),
            temperature,
        )
        return loss, ((kl, clip_ratio) if beta != 0.0 else (clip_ratio,))


def items_of_a_rank(loss_type, mask, num_items_in_batch=None):
    """What a rank divides by, so that the mean over ranks of their losses, which is what data
    parallelism makes of gradients, divides by the tokens of all; None: nothing is told."""
    if loss_type not in ("dapo", "cispo", "vespo"):
        return None
    ranks = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
    if num_items_in_batch is not None:
        return num_items_in_batch / ranks
    if ranks == 1:
        return None
    items = mask.sum(dtype=torch.float32)
    torch.distributed.all_reduce(items)
    return items / ranks


@options
class LigerFusedLinearGRPOLoss(ChunkedLoss):
    """See `LigerFusedLinearGRPOFunction.apply`."""

    beta: float = 0.04
    compiled: bool = True
    use_ref_model: bool = True
    chunk_size: int = 1
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    loss_type: str = "dapo"
    max_completion_length: int | None = None
    importance_sampling_level: str = "token"
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    temperature: float = 1.0
    delta: float | None = None
    use_bias_correction_kl: bool = False
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("sapo_temperature_pos", "sapo_temperature_neg", "delta"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(
                    f"{type(self).__name__}: {name}={value}; allowed: a positive number"
                )

    def forward(
        self,
        _input,
        lin_weight,
        selected_token_ids,
        attention_mask,
        advantages,
        bias=None,
        ref_per_token_logps=None,
        old_per_token_logps=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        vllm_is_ratio=None,
        num_items_in_batch=None,
    ):
        return LigerFusedLinearGRPOFunction.apply(
            _input,
            lin_weight,
            selected_token_ids,
            attention_mask,
            advantages,
            bias,
            ref_per_token_logps,
            old_per_token_logps,
            ref_input,
            ref_weight,
            ref_bias,
            vllm_is_ratio=vllm_is_ratio,
            num_items_in_batch=num_items_in_batch,
            **self.options(),
        )
