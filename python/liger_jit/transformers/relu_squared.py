"""The squared ReLU as a module."""

from torch import nn

from ..functional import relu_squared


class LigerReLUSquared(nn.Module):
    """max(x, 0)^2, as `liger_jit.functional.relu_squared`."""

    def __init__(self):
        super().__init__()

    def forward(self, x):
        return relu_squared(x)
