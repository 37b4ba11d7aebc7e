"""Ranks that train a tiled MLP under FSDP2: sharded_mlp_rank.py FOLDER gloo|nccl RANKS.

Tells how far output and gradients are from those of one process with the whole batch and one
shard, with plain projections and with a bias, which go different ways.
"""

from types import SimpleNamespace

import torch
from liger_jit import transformers as liger
from ranks import as_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard

HIDDEN, INNER, TOKENS, SHARDS = 16, 24, 12, 3
MODULES = {
    "silu": (liger.LigerTiledSwiGLUMLP, "silu"),
    "gelu": (liger.LigerTiledGEGLUMLP, "gelu_pytorch_tanh"),
}


class Block(nn.Module):
    """Two residual MLPs: the gradient of the first goes through the second."""

    def __init__(self, kind, shards, bias):
        super().__init__()
        module, activation = MODULES[kind]
        config = SimpleNamespace(hidden_size=HIDDEN, intermediate_size=INNER, hidden_act=activation)
        self.layers = nn.ModuleList(module(config, num_shards=shards) for _ in range(2))
        if bias:
            for layer in self.layers:
                layer.down_proj = nn.Linear(INNER, HIDDEN, bias=True)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def made(kind, shards, bias, device):
    torch.manual_seed(20)
    return Block(kind, shards, bias).to(device)


def gradients_of(model, x):
    model(x).square().mean().backward()
    return {
        name: getattr(one.grad, "full_tensor", lambda grad=one.grad: grad)()
        for name, one in model.named_parameters()
    }


def run(rank, folder, device):
    torch.manual_seed(21)
    x = torch.randn(2 * TOKENS, HIDDEN, device=device)  # both ranks have all of it
    told = {}
    for kind in MODULES:
        for bias in (False, True):
            wanted = gradients_of(made(kind, 1, bias, device), x)
            sharded = made(kind, SHARDS, bias, device)
            for layer in sharded.layers:
                fully_shard(layer)
            found = gradients_of(fully_shard(sharded), x.chunk(2)[rank])
            told[f"{kind}, bias {bias}"] = {
                name: ((found[name] - one).norm() / one.norm()).item()
                for name, one in wanted.items()
            }
    return told


if __name__ == "__main__":
    as_ranks(run)
