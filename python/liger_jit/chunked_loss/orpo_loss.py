"""Odds ratio preference optimisation, of hidden states and a head."""

from ..functional import fused_linear_orpo
from .module import ChunkedLoss, options


class LigerFusedLinearORPOFunction:
    """`functional.fused_linear_orpo` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        target,
        bias=None,
        ignore_index=-100,
        beta=0.1,
        compute_nll_loss=True,
        nll_target=None,
        compiled=True,
        chunk_size=1,
    ):
        """(loss, (chosen and rejected log-probabilities [pairs], chosen and rejected mean logit,
        negative log-likelihood, chosen and rejected rewards [pairs],
        mean log-sigmoid of the log odds ratio, and its mean)), float32 on the device."""
        loss, *others = fused_linear_orpo(
            _input,
            weight,
            target,
            bias,
            nll_ids=nll_target,
            beta=beta,
            compute_nll_loss=compute_nll_loss,
            ignore_index=ignore_index,
        )
        return loss, tuple(others)


@options
class LigerFusedLinearORPOLoss(ChunkedLoss):
    """See `LigerFusedLinearORPOFunction.apply`; note that forward takes the weight first."""

    ignore_index: int = -100
    beta: float = 0.1
    compute_nll_loss: bool = True
    compiled: bool = True
    chunk_size: int = 1

    def forward(self, lin_weight, _input, target, bias=None, nll_target=None):
        return LigerFusedLinearORPOFunction.apply(
            _input, lin_weight, target, bias, nll_target=nll_target, **self.options()
        )
