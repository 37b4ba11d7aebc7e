"""Attention over depth in place of residual sums, as a module."""

import torch
from torch import nn

from ..functional import attn_res


class LigerAttnRes(nn.Module):
    """The weighted sum of N states, as `liger_jit.functional.attn_res`.

    The query starts as numbers of deviation `query_init_std`, the scale of the states as ones. The
    states are one tensor [N, B, T, D] or a list of N tensors [B, T, D].
    """

    def __init__(self, hidden_size, eps=1e-6, query_init_std=0.02):
        super().__init__()
        self.hidden_size = hidden_size
        self.eps = eps
        self.query_init_std = query_init_std
        self.w_query = nn.Parameter(torch.randn(hidden_size) * query_init_std)
        self.w_norm = nn.Parameter(torch.ones(hidden_size))

    def forward(self, V):
        states = torch.stack(V) if isinstance(V, (list, tuple)) else V
        return attn_res(states, self.w_query, self.w_norm, self.eps)

    def extra_repr(self):
        return f"hidden_size={self.hidden_size}, eps={self.eps}"
