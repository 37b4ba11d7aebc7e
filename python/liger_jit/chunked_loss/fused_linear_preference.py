"""A base for losses of one's own over pairs of a chosen and a rejected sequence."""

from abc import abstractmethod

import torch

from ..functional import linear_log_probs
from .torch_loss import TorchLoss, loss_and_metrics, mean_logits, sequence_log_probs


class LigerFusedLinearPreferenceBase(TorchLoss):
    """A subclass has a static `preference_loss_fn`, a classmethod `forward(cls, ctx, ...)` that
    hands its arguments on to this one by name, and a static `backward` that takes the first four
    of this one's gradients."""

    @abstractmethod
    def preference_loss_fn(*args, **kwargs):
        """(chosen_logps, rejected_logps, full_target, beta=..., **loss_kwargs) -> the loss, or a
        tuple of it and further metrics; log-probabilities [pairs], with use_ref_model also as
        ref_chosen_logps and ref_rejected_logps. It is called once, with all pairs."""
        raise NotImplementedError("a subclass has its preference_loss_fn")

    @staticmethod
    def forward(
        cls,
        ctx,
        _input,
        weight,
        target,
        bias=None,
        chunk_size=1,
        ignore_index=-100,
        alpha=1.0,
        beta=0.1,
        compute_nll_loss=True,
        nll_target=None,
        compiled=True,
        use_ref_model=False,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        average_log_prob=True,
        **loss_kwargs,
    ):
        """(loss, (chosen and rejected log-probabilities [pairs], chosen and rejected mean logit,
        negative log-likelihood, what preference_loss_fn gives besides)).

        The loss is that of preference_loss_fn plus alpha times the mean negative log-probability of
        the chosen tokens, of nll_target where it is given.

        Args:
            _input: [2 P, T, H], chosen sequences, then the rejected. weight: [V, H]. bias: [V].
            target: [2 P, T] int64 or ignore_index, and so nll_target.
            ref_input, ref_weight, ref_bias: the same of a reference model, which gets no gradient.
        """
        pairs = target.shape[0] // 2
        leaves = cls.leaves(_input, weight, bias)
        states, head, shift = leaves
        with torch.enable_grad():
            logps = sequence_log_probs(states, head, target, shift, ignore_index, average_log_prob)
            if use_ref_model:
                with torch.no_grad():
                    ref_logps = sequence_log_probs(
                        ref_input, ref_weight, target, ref_bias, ignore_index, average_log_prob
                    )
                loss_kwargs["ref_chosen_logps"] = ref_logps[:pairs]
                loss_kwargs["ref_rejected_logps"] = ref_logps[pairs:]
            loss, metrics = loss_and_metrics(
                cls.preference_loss_fn(
                    logps[:pairs], logps[pairs:], target, beta=beta, **loss_kwargs
                )
            )
            nll = logps.new_zeros(())
            if compute_nll_loss:
                labels = (target if nll_target is None else nll_target)[:pairs]
                chosen, _ = linear_log_probs(
                    states[:pairs], head, labels, shift, ignore_index=ignore_index
                )
                nll = -chosen.sum() / labels.ne(ignore_index).sum().clamp_min(1)
                loss = loss + alpha * nll
        logps = logps.detach()
        means = mean_logits(_input, weight, bias)
        return cls.keep(ctx, loss, leaves), (
            logps[:pairs],
            logps[pairs:],
            means[:pairs].mean(),
            means[pairs:].mean(),
            nll.detach(),
            *metrics,
        )

    @staticmethod
    def backward(ctx, *grad_output):
        """Of _input, weight, target, bias; grad_output may come as a tuple of its own."""
        incoming = grad_output[0][0] if isinstance(grad_output[0], tuple) else grad_output[0]
        of_input, of_weight, of_bias = TorchLoss.gradients(ctx, incoming)
        return of_input, of_weight, None, of_bias, None, None, None, None
