"""Attention to a neighbourhood as modules."""

import math
from dataclasses import asdict, dataclass

from torch import nn

from ..functional import neighborhood_attention


class LigerFusedNeighborhoodAttention(nn.Module):
    """Attention of each token to `kernel_size` tokens around it, with its four projections.

    hidden_states [B, T, hidden_size] gives [B, T, hidden_size]; see
    `liger_jit.functional.neighborhood_attention`. `dropout` is that of the heads' outputs. An
    attention_mask raises NotImplementedError.
    """

    def __init__(
        self,
        hidden_size,
        num_heads,
        kernel_size=7,
        dilation=1,
        bias=True,
        dropout=0.0,
        scale=None,
    ):
        super().__init__()
        if hidden_size % num_heads != 0:
            raise ValueError(
                f"hidden_size is {hidden_size}; allowed: a multiple of num_heads, {num_heads}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; allowed: an odd number from 1 on")
        if dilation < 1:
            raise ValueError(f"dilation is {dilation}; allowed: 1 or more")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.scale = 1 / math.sqrt(self.head_dim) if scale is None else scale
        self.dropout_p = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None

    def forward(self, hidden_states, attention_mask=None):
        if attention_mask is not None:
            raise NotImplementedError(
                "LigerFusedNeighborhoodAttention: attention_mask is given; allowed: None"
            )
        heads = [
            projection(hidden_states).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        attended = neighborhood_attention(*heads, self.kernel_size, self.dilation, self.scale)
        attended = attended.transpose(1, 2).flatten(2)
        if self.dropout is not None:
            attended = self.dropout(attended)
        return self.out_proj(attended)

    def extra_repr(self):
        return (
            f"hidden_size={self.hidden_size}, num_heads={self.num_heads}, "
            f"head_dim={self.head_dim}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, scale={self.scale}, dropout={self.dropout_p}"
        )


class LigerFusedNeighborhoodAttentionLayer(nn.Module):
    """hidden_states + attention(layer_norm(hidden_states)), [B, T, hidden_size] each."""

    def __init__(
        self,
        hidden_size,
        num_heads,
        kernel_size=7,
        dilation=1,
        bias=True,
        dropout=0.0,
        layer_norm_eps=1e-5,
        scale=None,
    ):
        super().__init__()
        self.attention = LigerFusedNeighborhoodAttention(
            hidden_size, num_heads, kernel_size, dilation, bias, dropout, scale
        )
        self.layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None

    def forward(self, hidden_states, attention_mask=None):
        attended = self.attention(self.layer_norm(hidden_states), attention_mask)
        if self.dropout is not None:
            attended = self.dropout(attended)
        return hidden_states + attended


@dataclass
class LigerFusedNeighborhoodAttentionConfig:
    """The arguments of `LigerFusedNeighborhoodAttentionLayer`."""

    hidden_size: int = 768
    num_heads: int = 12
    kernel_size: int = 7
    dilation: int = 1
    bias: bool = True
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    scale: float | None = None

    def to_dict(self):
        return asdict(self)
