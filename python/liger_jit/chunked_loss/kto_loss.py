"""Kahneman-Tversky optimisation, of hidden states and a head."""

from ..functional import fused_linear_kto
from .module import ChunkedLoss, options


class LigerFusedLinearKTOFunction:
    """`functional.fused_linear_kto` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        target,
        preference_labels,
        bias=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        kl=None,
        ignore_index=-100,
        beta=0.1,
        compiled=True,
        use_ref_model=True,
        average_log_prob=False,
        chunk_size=1,
    ):
        """(loss, (sums over chosen and over rejected sequences of log-probabilities, of logits and
        of rewards)), float32 on the device."""
        if preference_labels is None:
            raise ValueError(
                "LigerFusedLinearKTOFunction: preference_labels is None; allowed: bool [sequences]"
            )
        if use_ref_model and ref_input is None:
            raise ValueError(
                "LigerFusedLinearKTOFunction: use_ref_model is True and ref_input is None; "
                "allowed: the reference model's hidden states, or use_ref_model=False"
            )
        loss, *others = fused_linear_kto(
            _input,
            weight,
            target,
            preference_labels,
            bias,
            kl,
            ref_input if use_ref_model else None,
            ref_weight if use_ref_model else None,
            ref_bias if use_ref_model else None,
            beta=beta,
            average_log_prob=average_log_prob,
            ignore_index=ignore_index,
        )
        return loss, tuple(others)


@options
class LigerFusedLinearKTOLoss(ChunkedLoss):
    """See `LigerFusedLinearKTOFunction.apply`."""

    ignore_index: int = -100
    beta: float = 0.1
    compiled: bool = True
    use_ref_model: bool = False
    average_log_prob: bool = False
    chunk_size: int = 1

    def forward(
        self,
        _input,
        lin_weight,
        target,
        bias=None,
        preference_labels=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        kl=None,
    ):
        return LigerFusedLinearKTOFunction.apply(
            _input,
            lin_weight,
            target,
            preference_labels,
            bias,
            ref_input,
            ref_weight,
            ref_bias,
            kl,
            **self.options(),
        )
