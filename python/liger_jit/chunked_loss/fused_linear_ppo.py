"""A base for losses of one's own over the log-probabilities of a policy's tokens."""

from abc import abstractmethod

import torch

from ..functional import linear_log_probs
from .torch_loss import TorchLoss

# Arguments of forward after the bias, which have no gradient.
_OPTIONS = 21


class LigerFusedLinearPPOBase(TorchLoss):
    """A subclass has a static `ppo_loss_fn`, a classmethod `forward(cls, ctx, ...)` that hands its
    arguments on to this one by name, and a static `backward` that takes the first six of this one's
    gradients."""

    @abstractmethod
    def ppo_loss_fn(*args, **kwargs):
        """By name per_token_logps, ref_per_token_logps and old_per_token_logps [B, T] (the last two
        may be None), attention_mask and full_attention_mask [B, T], advantages, vllm_is_ratio, and
        forward's options -> (loss, metrics). It is called once, with all sequences."""
        raise NotImplementedError("a subclass has its ppo_loss_fn")

    @staticmethod
    def forward(
        cls,
        ctx,
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
        epsilon_low=0.2,
        epsilon_high=0.2,
        beta=0.04,
        loss_type="dapo",
        max_completion_length=None,
        importance_sampling_level="token",
        temperature=1.0,
        compiled=True,
        use_ref_model=False,
        chunk_size=1,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        vllm_is_ratio=None,
        delta=None,
        use_bias_correction_kl=False,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
        num_items_in_batch=None,
    ):
        """(loss, metrics), as ppo_loss_fn gives them.

        Args:
            _input: [B, T, H]. weight: [V, H]. bias: [V]. selected_token_ids: [B, T] int64.
            ref_input, ref_weight, ref_bias: of a reference model, whose log-probabilities are made
                where ref_per_token_logps is None.
            vllm_is_ratio: [B, T], [B, 1] or [B].
        """
        if use_ref_model and ref_per_token_logps is None and ref_input is None:
            raise ValueError(
                f"{cls.__name__}: use_ref_model is True, and neither ref_per_token_logps nor "
                "ref_input is given; allowed: one of them, or use_ref_model=False"
            )
        if vllm_is_ratio is not None and vllm_is_ratio.dim() == 1:
            vllm_is_ratio = vllm_is_ratio.unsqueeze(1)

        def log_probs(states, head, shift):
            return linear_log_probs(states, head, selected_token_ids, shift, temperature)[0]

        leaves = cls.leaves(_input, weight, bias)
        with torch.enable_grad():
            logps = log_probs(*leaves)
            if not use_ref_model:
                ref_per_token_logps = None
            elif ref_per_token_logps is None:
                with torch.no_grad():
                    ref_per_token_logps = log_probs(ref_input, ref_weight, ref_bias)
            returned = cls.ppo_loss_fn(
                per_token_logps=logps,
                attention_mask=attention_mask,
                advantages=advantages,
                full_attention_mask=attention_mask,
                ref_per_token_logps=as_exact(ref_per_token_logps),
                old_per_token_logps=as_exact(old_per_token_logps),
                epsilon_low=epsilon_low,
                epsilon_high=epsilon_high,
                beta=beta,
                loss_type=loss_type,
                max_completion_length=max_completion_length,
                importance_sampling_level=importance_sampling_level,
                sapo_temperature_pos=sapo_temperature_pos,
                sapo_temperature_neg=sapo_temperature_neg,
                vllm_is_ratio=vllm_is_ratio,
                delta=delta,
                use_bias_correction_kl=use_bias_correction_kl,
                vespo_k_pos=vespo_k_pos,
                vespo_lambda_pos=vespo_lambda_pos,
                vespo_k_neg=vespo_k_neg,
                vespo_lambda_neg=vespo_lambda_neg,
                num_items_in_batch=num_items_in_batch,
            )
        loss, metrics = returned
        return cls.keep(ctx, loss, leaves), tuple(one.detach() for one in metrics)

    @staticmethod
    def backward(ctx, grad_output, *grad_metrics):
        """Of forward's arguments."""
        of_input, of_weight, of_bias = TorchLoss.gradients(ctx, grad_output)
        return of_input, of_weight, None, None, None, of_bias, *[None] * _OPTIONS


def as_exact(log_probs):
    """In float32, or float64 as they are."""
    if log_probs is None:
        return None
    return log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
