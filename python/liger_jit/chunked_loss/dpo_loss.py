"""Direct preference optimisation, of hidden states and a head."""

from torch import nn

from ..functional import fused_linear_dpo
from ..ops import choice, choices

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


class LigerFusedLinearDPOLoss(nn.Module):
    """See `LigerFusedLinearDPOFunction.apply`; note that forward takes the weight first."""

    def __init__(
        self,
        ignore_index=-100,
        beta=0.1,
        alpha=1.0,
        compute_nll_loss=False,
        compiled=True,
        use_ref_model=True,
        average_log_prob=False,
        chunk_size=1,
        loss_type="sigmoid",
        label_smoothing=0.0,
        discopop_tau=0.05,
    ):
        super().__init__()
        choice("fused_linear_dpo", "loss_type", loss_type, choices("fused_linear_dpo", "loss_type"))
        allowed = {"exo_pair": 0.0 < label_smoothing < 1.0, "robust": 0.0 <= label_smoothing < 0.5}
        if not allowed.get(loss_type, True):
            raise ValueError(
                f"{type(self).__name__}: label_smoothing={label_smoothing} with "
                f"loss_type={loss_type!r}; allowed: above 0 for 'exo_pair', 0 to less than 0.5 for "
                "'robust'"
            )
        self.ignore_index = ignore_index
        self.beta = beta
        self.alpha = alpha
        self.compute_nll_loss = compute_nll_loss
        self.compiled = compiled
        self.use_ref_model = use_ref_model
        self.average_log_prob = average_log_prob
        self.chunk_size = chunk_size
        self.loss_type = loss_type
        self.label_smoothing = label_smoothing
        self.discopop_tau = discopop_tau

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
            self.ignore_index,
            self.beta,
            self.compute_nll_loss,
            self.compiled,
            self.use_ref_model,
            self.average_log_prob,
            self.chunk_size,
            self.loss_type,
            self.label_smoothing,
            self.discopop_tau,
            self.alpha,
        )
