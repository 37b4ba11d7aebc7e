"""PolyNorm as a module."""

import torch
from torch import nn

from ..functional import poly_norm


class LigerPolyNorm(nn.Module):
    """`liger_jit.functional.poly_norm` with weights of a third and a bias of one.

    `in_place` does nothing: inputs are never changed.
    """

    def __init__(self, eps=1e-6, in_place=True):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 1.0 / 3.0))
        self.bias = nn.Parameter(torch.tensor(1.0))
        self.variance_epsilon = eps
        self.in_place = in_place

    def forward(self, hidden_states):
        return poly_norm(hidden_states, self.weight, self.bias, self.variance_epsilon)

    def extra_repr(self):
        return f"eps={self.variance_epsilon}"
