"""Contrastive preference optimisation, of hidden states and a head."""

from ..functional import fused_linear_cpo
from .module import ChunkedLoss, options


class LigerFusedLinearCPOFunction:
    """`functional.fused_linear_cpo` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        target,
        bias=None,
        ignore_index=-100,
        beta=0.1,
        alpha=1.0,
        label_smoothing=0.0,
        compute_nll_loss=True,
        compiled=True,
        average_log_prob=False,
        chunk_size=1,
    ):
        """(loss, (chosen and rejected log-probabilities [pairs], chosen and rejected mean logit,
        negative log-likelihood, chosen and rejected rewards [pairs])), float32 on the device."""
        loss, *others = fused_linear_cpo(
            _input,
            weight,
            target,
            bias,
            beta=beta,
            label_smoothing=label_smoothing,
            average_log_prob=average_log_prob,
            compute_nll_loss=compute_nll_loss,
            alpha=alpha,
            ignore_index=ignore_index,
        )
        return loss, tuple(others)


@options
class LigerFusedLinearCPOLoss(ChunkedLoss):
    """See `LigerFusedLinearCPOFunction.apply`; note that forward takes the weight first."""

    ignore_index: int = -100
    beta: float = 0.1
    alpha: float = 1.0
    label_smoothing: float = 0.0
    compute_nll_loss: bool = True
    compiled: bool = True
    average_log_prob: bool = False
    chunk_size: int = 1

    def forward(self, lin_weight, _input, target, bias=None):
        return LigerFusedLinearCPOFunction.apply(_input, lin_weight, target, bias, **self.options())
