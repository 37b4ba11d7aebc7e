"""Cross entropy and total variation distance, of each token, as a module."""

from torch import nn

from ..functional import ce_tvd


class LigerFusedCETVDLoss(nn.Module):
    """(ce, tvd) of each row, not reduced: `liger_jit.functional.ce_tvd`."""

    def __init__(self, ignore_index=-100):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, student_logits, teacher_logits, target):
        return ce_tvd(student_logits, teacher_logits, target, self.ignore_index)
