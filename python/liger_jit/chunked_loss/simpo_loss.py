"""Simple preference optimisation, of hidden states and a head."""

from ..functional import fused_linear_simpo
from .module import ChunkedLoss, options


class LigerFusedLinearSimPOFunction:
    """`functional.fused_linear_simpo` in Liger Kernel's order."""

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
        compute_nll_loss=False,
        compiled=True,
        gamma=0.5,
        chunk_size=1,
    ):
        """(loss, (chosen and rejected log-probabilities [pairs], chosen and rejected mean logit,
        negative log-likelihood, chosen and rejected rewards [pairs])), float32 on the device."""
        loss, *others = fused_linear_simpo(
            _input,
            weight,
            target,
            bias,
            beta=beta,
            gamma=gamma,
            label_smoothing=label_smoothing,
            compute_nll_loss=compute_nll_loss,
            alpha=alpha,
            ignore_index=ignore_index,
        )
        return loss, tuple(others)


@options
class LigerFusedLinearSimPOLoss(ChunkedLoss):
    """See `LigerFusedLinearSimPOFunction.apply`; note that forward takes the weight first."""

    ignore_index: int = -100
    beta: float = 0.1
    alpha: float = 1.0
    label_smoothing: float = 0.0
    compute_nll_loss: bool = True
    compiled: bool = True
    gamma: float = 0.5
    chunk_size: int = 1

    def forward(self, lin_weight, _input, target, bias=None):
        return LigerFusedLinearSimPOFunction.apply(
            _input, lin_weight, target, bias, **self.options()
        )
