"""Kullback-Leibler divergence as a module."""

from torch import nn

from .functional import liger_kl_div


class LigerKLDIVLoss(nn.KLDivLoss):
    """torch's KLDivLoss, with a least probability `eps`: `functional.liger_kl_div`."""

    def __init__(self, eps=1e-10, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.eps = eps

    def forward(self, y_pred, y_true):
        return liger_kl_div(
            y_pred,
            y_true,
            reduction=self.reduction,
            log_target=self.log_target,
            eps=self.eps,
        )
