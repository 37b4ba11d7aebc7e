"""One rank of a small training run, started by torchrun. Writes what happened to FOLDER/RANK.json.

python -m torch.distributed.run --nproc-per-node=8 training_rank.py FOLDER own|shared [nccl]

`own` gives each rank an empty cache of its own, so that only the process group can share.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
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
        from liger_jit import functional

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
    from liger_jit import functional

    functional.layer_norm(
        torch.ones(4, 40, device=device), torch.ones(40, device=device), torch.ones(40, device=device)
    )


def main():
    folder, caches = Path(sys.argv[1]), sys.argv[2]
    backend = sys.argv[3] if len(sys.argv) > 3 else "gloo"
    rank = int(os.environ["RANK"])
    os.environ["LIGER_JIT_CACHE"] = str(folder / ("cache" if caches == "shared" else f"cache{rank}"))
    import liger_jit

    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    begin = time.monotonic()
    losses = train(device)
    took_seconds = time.monotonic() - begin
    if rank == dist.get_world_size() - 1:
        alone(device)
    stats = liger_jit.stats()
    # The store's server lives in a rank or in torchrun: nobody leaves while another one asks it.
    dist.barrier()
    dist.destroy_process_group()
    told = {"losses": losses, "seconds": took_seconds, **stats}
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
