"""Sparsemax as a module."""

from torch import nn

from ..functional import sparsemax


class LigerSparsemax(nn.Module):
    """Sparsemax of one dimension: `liger_jit.functional.sparsemax`."""

    def __init__(self, dim=-1):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return sparsemax(x, self.dim)
