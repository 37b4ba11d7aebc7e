"""Direct preference optimisation, of hidden states and a head."""

from ..functional import fused_linear_dpo
from ..ops import choice, choices
from .module import ChunkedLoss, options

_LOSSES = choices("fused_linear_dpo", "loss_type")

# Only these look at the smoothing; `sigmoid` here would.
_SMOOTHED = ("exo_pair", "robust")


class LigerFusedLinearDPOFunction:
    """`functional.fused_linear_dpo` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        target,
        bias=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
        ignore_index=-100,
        beta=0.1,
        compute_nll_loss=False,
        compiled=True,
        use_ref_model=True,
        average_log_prob=False,
        chunk_size=1,
        loss_type="sigmoid",
        label_smoothing=0.0,
        discopop_tau=0.05,
        alpha=1.0,
    ):
        """(loss, (chosen and rejected log-probabilities [pairs], chosen and rejected mean logit,
        negative log-likelihood, chosen and rejected rewards [pairs])), float32 on the device."""
        if use_ref_model and ref_input is None:
            raise ValueError(
                "LigerFusedLinearDPOFunction: use_ref_model is True and ref_input is None; "
                "allowed: the reference model's hidden states, or use_ref_model=False"
            )
        loss, *others = fused_linear_dpo(
            _input,
            weight,
            target,
            bias,
            ref_input if use_ref_model else None,
            ref_weight if use_ref_model else None,
            ref_bias if use_ref_model else None,
            loss_type=loss_type,
            beta=beta,
            label_smoothing=label_smoothing if loss_type in _SMOOTHED else 0.0,
            discopop_tau=discopop_tau,
            average_log_prob=average_log_prob,
            compute_nll_loss=compute_nll_loss,
            alpha=alpha,
            ignore_index=ignore_index,
        )
        return loss, tuple(others)


@options
class LigerFusedLinearDPOLoss(ChunkedLoss):
    """See `LigerFusedLinearDPOFunction.apply`; note that forward takes the weight first."""

    ignore_index: int = -100
    beta: float = 0.1
    alpha: float = 1.0
    compute_nll_loss: bool = False
    compiled: bool = True
    use_ref_model: bool = True
    average_log_prob: bool = False
    chunk_size: int = 1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        smoothing = self.label_smoothing
        choice("fused_linear_dpo", "loss_type", self.loss_type, _LOSSES)
        allowed = {"exo_pair": 0.0 < smoothing < 1.0, "robust": 0.0 <= smoothing < 0.5}
        if not allowed.get(self.loss_type, True):
            raise ValueError(
                f"{type(self).__name__}: label_smoothing={smoothing} with "
                f"loss_type={self.loss_type!r}; allowed: above 0 for 'exo_pair', 0 to less than "
                "0.5 for 'robust'"
            )

    def forward(
        self,
        lin_weight,
        _input,
        target,
        bias=None,
        ref_input=None,
        ref_weight=None,
        ref_bias=None,
    ):
        return LigerFusedLinearDPOFunction.apply(
            _input,
            lin_weight,
            target,
            bias,
            ref_input,
            ref_weight,
            ref_bias,
            **self.options(),
        )
