"""A base for losses of one's own over sequences that are each liked or not."""

from abc import abstractmethod

import torch

from .torch_loss import TorchLoss, loss_and_metrics, mean_logits, sequence_log_probs


class LigerFusedLinearUnpairedPreferenceBase(TorchLoss):
    """A subclass has a static `preference_loss_fn`, a classmethod `forward(cls, ctx, ...)` that
    hands its arguments on to this one by name, and a static `backward` that takes the first five of
    this one's gradients."""

    @abstractmethod
    def preference_loss_fn(*args, **kwargs):
        """(log_probs [B], preference_labels [B], full_target, **loss_kwargs) -> the loss, or a
        tuple of it and further sums; with use_ref_model also ref_log_prob_chunk [B]. It is called
        once, with all sequences."""
        raise NotImplementedError("a subclass has its preference_loss_fn")

    @staticmethod
    def forward(
        cls,
        ctx,
        _input,
        weight,
        target,
        preference_labels,
        bias=None,
        chunk_size=1,
        ignore_index=-100,
        compiled=True,
        use_ref_model=False,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        average_log_prob=False,
        **loss_kwargs,
    ):
        """(loss, (sums over the chosen and over the rejected sequences of log-probabilities, and
        of logits, what preference_loss_fn gives besides)).

        Args:
            _input: [B, T, H]. weight: [V, H]. bias: [V]. target: [B, T] int64 or ignore_index.
            preference_labels: bool [B], True where a sequence is a chosen one.
            ref_input, ref_weight, ref_bias: the same of a reference model, which gets no gradient.
        """
        leaves = cls.leaves(_input, weight, bias)
        states, head, shift = leaves
        with torch.enable_grad():
            logps = sequence_log_probs(states, head, target, shift, ignore_index, average_log_prob)
            if use_ref_model:
                with torch.no_grad():
                    loss_kwargs["ref_log_prob_chunk"] = sequence_log_probs(
                        ref_input, ref_weight, target, ref_bias, ignore_index, average_log_prob
                    )
            loss, metrics = loss_and_metrics(
                cls.preference_loss_fn(logps, preference_labels, target, **loss_kwargs)
            )
        logps = logps.detach()
        logits = mean_logits(_input, weight, bias) * (target.shape[1] * weight.shape[0])
        rejected = ~preference_labels
        return cls.keep(ctx, loss, leaves), (
            (logps * preference_labels).sum(),
            (logps * rejected).sum(),
            (logits * preference_labels).sum(),
            (logits * rejected).sum(),
            *metrics,
        )

    @staticmethod
    def backward(ctx, *grad_output):
        """Of _input, weight, target, preference_labels, bias; grad_output may come as a tuple of
        its own."""
        incoming = grad_output[0][0] if isinstance(grad_output[0], tuple) else grad_output[0]
        of_input, of_weight, of_bias = TorchLoss.gradients(ctx, incoming)
        return of_input, of_weight, None, None, of_bias
