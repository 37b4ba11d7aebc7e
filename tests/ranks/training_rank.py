"""Ranks of a small training run: training_rank.py FOLDER gloo|nccl RANKS own|shared.

`own` gives each rank an empty cache of its own, so that only the process group can share.
"""

import os
import time

import liger_jit
import torch
from liger_jit import functional
from ranks import as_ranks
from torch import nn

HIDDEN, INNER, VOCABULARY, ROWS, STEPS = 64, 96, 101, 24, 3


class Model(nn.Module):
    """A norm, a gated MLP with its residual, and a head whose logits never exist."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.norm = nn.Parameter(torch.ones(HIDDEN))
        self.gate = nn.Linear(HIDDEN, INNER, bias=False)
        self.up = nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids):
        x = self.embedding(ids)
        y = functional.rms_norm(x, self.norm)
        x = x + self.down(functional.swiglu(self.gate(y), self.up(y)))
        return functional.cross_entropy(self.head(x), ids)


def train(device):
    """The losses of a few steps, as hexadecimal numbers that hide no bit."""
    torch.manual_seed(20)
    model = Model().to(device)
    if device.type == "cuda":
        from torch.distributed.fsdp import fully_shard

        model = fully_shard(model)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(STEPS):
        # Every rank has the same batch, so that every rank must have the same loss.
        ids = torch.arange(ROWS, device=device) * (step + 3) % VOCABULARY
        loss = model(ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())
    return losses


def alone(device):
    """An op of a size that no other rank asks for; the others do not wait, and nor does this."""
    functional.layer_norm(
        torch.ones(4, 40, device=device),
        torch.ones(40, device=device),
        torch.ones(40, device=device),
    )


def run(rank, folder, device, caches):
    # Before the first use, at which the environment is read.
    os.environ["LIGER_JIT_AUTOTUNE"] = "first-run"
    os.environ["LIGER_JIT_CACHE"] = str(
        folder / ("cache" if caches == "shared" else f"cache{rank}")
    )
    begin = time.monotonic()
    losses = train(device)
    told = {"losses": losses, "seconds": time.monotonic() - begin}
    told |= {"picks": liger_jit.stats()["picks"]}
    if rank == torch.distributed.get_world_size() - 1:
        alone(device)
    return {**liger_jit.stats(), **told}


if __name__ == "__main__":
    as_ranks(run)
