"""Cross entropy and total variation distance, of each token, as a module."""

from torch import nn

from ..functional import ce_tvd
from .loss_forms import labels
from .two_dtypes import alike


class LigerFusedCETVDLoss(nn.Module):
    """(ce, tvd) of each row, not reduced: `liger_jit.functional.ce_tvd`.

    Where the dtypes of student and teacher differ they are computed in the wider.
    """

    def __init__(self, ignore_index=-100):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, student_logits, teacher_logits, target):
        student, teacher = alike(student_logits, teacher_logits)
        return ce_tvd(student, teacher, labels(target), self.ignore_index)
