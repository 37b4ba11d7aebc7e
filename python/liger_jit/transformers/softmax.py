"""Softmax as a module."""

from torch import nn

from ..functional import softmax


class LigerSoftmax(nn.Module):
    """Softmax of the last dimension: `liger_jit.functional.softmax`."""

    def __init__(self):
        super().__init__()

    def forward(self, x):
        return softmax(x)
