"""LayerNorm as a module."""

import torch
from torch import nn

from ..functional import layer_norm
from .rms_norm import initial_weight


class LigerLayerNorm(nn.Module):
    """Layer normalisation of the last dimension, as `liger_jit.functional.layer_norm`.

    bias=False keeps a bias of zeros that does not train, so that a checkpoint of either form loads.
    `impl`, its other name `backend`, and `mode` choose between implementations elsewhere; here they
    are kept and do nothing.
    """

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        bias=False,
        init_fn="ones",
        impl=None,
        mode=None,
        backend=None,
    ):
        super().__init__()
        self.weight = initial_weight(self, hidden_size, init_fn)
        self.bias = nn.Parameter(torch.zeros(hidden_size), requires_grad=bias)
        self.hidden_size = hidden_size
        self.eps = eps
        self.variance_epsilon = eps
        self.impl = backend if impl is None else impl
        self.mode = mode

    @property
    def backend(self):
        return self.impl

    @backend.setter
    def backend(self, value):
        self.impl = value

    def forward(self, hidden_states):
        return layer_norm(hidden_states, self.weight, self.bias, self.variance_epsilon)

    def extra_repr(self):
        return f"{self.hidden_size}, eps={self.variance_epsilon}, bias={self.bias.requires_grad}"
