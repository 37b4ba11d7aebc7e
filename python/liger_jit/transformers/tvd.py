"""Total variation distance as a module."""

from torch import nn

from .functional import liger_tvd


class LigerTVDLoss(nn.Module):
    """Of the student's probabilities and the teacher's: `functional.liger_tvd`."""

    def __init__(self, reduction="batchmean", ignore_index=-100):
        super().__init__()
        self.reduction = reduction
        self.ignore_index = ignore_index

    def forward(self, p, q, shift_labels=None):
        return liger_tvd(p, q, shift_labels, self.reduction, self.ignore_index)
