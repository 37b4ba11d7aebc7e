"""Gated MLPs as one node of the graph: `functional.gated_mlp`.

The node takes the projections' weights. Where a projection is more than its weight (an adapter, a
hook, a bias, a quantised or sharded weight) it is called as a module, and the gate alone is fused.
"""

import torch
from torch import Tensor, nn

from ..functional import gated_mlp
from ..patch.rules.whole_mlp import is_plain
from .swiglu import LigerFalconH1SwiGLUMLP, LigerSwiGLUMLP


def plain_weights(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The weights of gate_proj, up_proj and down_proj, if they are all that these do."""
    layers = module.gate_proj, module.up_proj, module.down_proj
    dense = type(x) is Tensor and x.layout is torch.strided
    if not dense or not all(map(is_plain, layers)):
        return None
    return layers[0].weight, layers[1].weight, layers[2].weight


class LigerMLP(LigerSwiGLUMLP):
    """down_proj(silu(gate_proj(x)) * up_proj(x)), keeping x, gate and up for the backward."""

    def __init__(self, config):
        super().__init__(config)

    def forward(self, x):
        weights = plain_weights(self, x)
        return super().forward(x) if weights is None else gated_mlp(x, *weights)


class LigerFalconH1MLP(LigerFalconH1SwiGLUMLP):
    """`LigerFalconH1SwiGLUMLP` as one node; with config.mlp_bias the biases are added as there."""

    def forward(self, x):
        weights = plain_weights(self, x)
        if weights is None:
            return super().forward(x)
        return gated_mlp(x, *weights, "silu", self.gate_multiplier, self.down_multiplier)
