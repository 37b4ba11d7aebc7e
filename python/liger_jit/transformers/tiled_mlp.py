"""Gated MLPs by shards of the sequence, whose forward is made again in the backward.

Plain projections go to `functional.tiled_mlp`, one node whose results are the weights' gradients:
to FSDP, DDP and hooks of parameters it is like any other. Where a projection is more than its
weight, it is called as a module for each shard, which torch's checkpoint makes again.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..functional import geglu, swiglu, tiled_mlp
from .geglu import gelu_form
from .mlp import plain_weights
from .swiglu import projections, refuse_other_activations


class _TiledMLP(nn.Module):
    """What the two have in common; `_activation`, None where one node has none for it, and `_gated`
    tell them apart."""

    def __init__(self, config, num_shards=None):
        super().__init__()
        if num_shards is not None and num_shards < 1:
            raise ValueError(
                f"{type(self).__name__}: num_shards={num_shards} is not supported; "
                "allowed: 1 or more, or None"
            )
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = config.intermediate_size
        self.num_shards = num_shards
        projections(self)

    def forward(self, x):
        weights, activation = plain_weights(self, x), self._activation
        if weights is not None and activation is not None:
            return tiled_mlp(x, *weights, activation, shards=self.num_shards)
        rows = x.reshape(-1, x.shape[-1])
        shards = self.num_shards or -(-rows.shape[0] // rows.shape[1])
        parts = [_checkpointed(self._of_shard, shard) for shard in rows.chunk(max(shards, 1))]
        return torch.cat(parts).unflatten(0, x.shape[:-1])

    def _of_shard(self, x):
        return self.down_proj(self._gated(self.gate_proj(x), self.up_proj(x)))


def _checkpointed(function, x):
    """checkpoint(function, x), past which errors go: torch's of before 2.15 leave their hooks on
    all later forwards of the thread where an error goes through them and somebody holds it."""
    if torch.compiler.is_compiling():
        return checkpoint(function, x, use_reentrant=False)
    trouble = []
    is_forward = True

    def without_error(x):
        try:
            return function(x)
        except BaseException as error:
            if not is_forward:
                raise
            trouble.append(error)

    result = checkpoint(without_error, x, use_reentrant=False)
    is_forward = False
    if trouble:
        raise trouble.pop()
    return result


class LigerTiledSwiGLUMLP(_TiledMLP):
    """down_proj(silu(gate_proj(x)) * up_proj(x)) by num_shards shards of the rows of x; None: so
    many that a shard has at most hidden_size rows. A configuration may name no activation."""

    _activation = "silu"

    def __init__(self, config, num_shards=None):
        if hasattr(config, "hidden_act"):
            refuse_other_activations(self, config)
        super().__init__(config, num_shards)

    def _gated(self, gate, up):
        return swiglu(gate, up)


class LigerTiledGEGLUMLP(_TiledMLP):
    """down_proj(gelu(gate_proj(x)) * up_proj(x)) by shards as in `LigerTiledSwiGLUMLP`. The form of
    GELU is that of the configuration, as in `LigerGEGLUMLP`."""

    def __init__(self, config, num_shards=None):
        super().__init__(config, num_shards)
        self.approximate = gelu_form(self, config)

    @property
    def _activation(self):
        return {"tanh": "gelu_tanh", "none": "gelu"}.get(self.approximate)

    def _gated(self, gate, up):
        return geglu(gate, up, self.approximate)
