"""The vocabulary projections of a student and a teacher and their Jensen-Shannon divergence as one
module, which never holds all the logits."""

from torch import nn

from .functional import liger_fused_linear_jsd


class LigerFusedLinearJSD(nn.Module):
    """See `functional.liger_fused_linear_jsd`."""

    def __init__(self, jsd_beta=0.5, ignore_index=-100, temperature=1.0, accum_dtype=None):
        super().__init__()
        if temperature == 0:
            raise ValueError("LigerFusedLinearJSD: temperature=0; allowed: a positive number")
        self.jsd_beta = jsd_beta
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.accum_dtype = accum_dtype

    def forward(self, student_input, student_weight, teacher_input, teacher_weight, shift_labels):
        return liger_fused_linear_jsd(
            student_input,
            student_weight,
            teacher_input,
            teacher_weight,
            shift_labels,
            self.jsd_beta,
            self.ignore_index,
            self.temperature,
            self.accum_dtype,
        )
