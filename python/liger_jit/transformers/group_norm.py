"""GroupNorm as a module."""

import torch
from torch import nn

from .functional import liger_group_norm
from .rms_norm import initial_weight


class LigerGroupNorm(nn.Module):
    """Normalisation over groups of channels, as `liger_jit.functional.group_norm`.

    bias=False keeps a bias of zeros that does not train, so that a checkpoint of either form loads.
    """

    def __init__(self, num_channels, num_groups, eps=1e-6, bias=False, init_fn="ones"):
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"LigerGroupNorm: num_groups={num_groups}; allowed: what divides "
                f"num_channels={num_channels}"
            )
        self.weight = initial_weight(self, num_channels, init_fn)
        self.bias = nn.Parameter(torch.zeros(num_channels), requires_grad=bias)
        self.num_channels = num_channels
        self.num_groups = num_groups
        self.eps = eps
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        return liger_group_norm(
            hidden_states,
            self.weight,
            self.bias,
            self.num_channels,
            self.num_groups,
            self.variance_epsilon,
        )

    def extra_repr(self):
        return (
            f"{self.num_channels}, {self.num_groups}, eps={self.variance_epsilon}, "
            f"bias={self.bias.requires_grad}"
        )
