"""Jensen-Shannon divergence as a module."""

from torch import nn

from .functional import liger_jsd


class LigerJSD(nn.Module):
    """Of the student's log-probabilities and the teacher's: `functional.liger_jsd`."""

    def __init__(self, beta=0.5, ignore_index=-100):
        super().__init__()
        self.beta = beta
        self.ignore_index = ignore_index

    def forward(self, log_q, log_p, shift_labels=None):
        return liger_jsd(log_q, log_p, shift_labels, self.beta, self.ignore_index)
