"""The vocabulary projection and its Kullback-Leibler divergence from given probabilities as one
module, which never holds all the logits."""

from torch import nn

from .functional import liger_fused_linear_kl_div


class LigerFusedLinearKLDivLoss(nn.Module):
    """See `functional.liger_fused_linear_kl_div`."""

    def __init__(
        self,
        reduction="batchmean",
        ignore_index=-100,
        temperature=1.0,
        eps=1e-10,
        accum_dtype=None,
    ):
        super().__init__()
        if temperature == 0:
            raise ValueError("LigerFusedLinearKLDivLoss: temperature=0; allowed: a positive number")
        self.reduction = reduction
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.eps = eps
        self.accum_dtype = accum_dtype

    def forward(self, student_input, student_weight, target, shift_labels=None):
        return liger_fused_linear_kl_div(
            student_input,
            student_weight,
            target,
            shift_labels,
            self.reduction,
            self.ignore_index,
            self.temperature,
            self.eps,
            self.accum_dtype,
        )
