"""Ranks of a small training run. Each writes what happened to FOLDER/RANK.json.

python -m torch.distributed.run --nproc-per-node=8 training_rank.py FOLDER own|shared gloo|nccl
python training_rank.py FOLDER own|shared gloo 8      forks the ranks, which is quicker

`own` gives each rank an empty cache of its own, so that only the process group can share.
"""

import json
import os
import sys
import time
from pathlib import Path

import liger_jit
import torch
import torch.distributed as dist
from liger_jit import functional
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


def run(rank, folder, caches, backend, store=None, ranks=-1):
    os.environ["LIGER_JIT_CACHE"] = str(
        folder / ("cache" if caches == "shared" else f"cache{rank}")
    )
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=store, rank=rank if store else -1, world_size=ranks)
    begin = time.monotonic()
    losses = train(device)
    told = {"losses": losses, "seconds": time.monotonic() - begin}
    told |= {"picks": liger_jit.stats()["picks"]}
    if rank == dist.get_world_size() - 1:
        alone(device)
    told = {**liger_jit.stats(), **told}
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(told))


def fork_ranks(folder, caches, backend, ranks):
    """All import torch once. Their store's server is this process, so it outlives them."""
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    read_end, write_end = os.pipe()
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            port = int(os.read(read_end, 6))
            run(rank, folder, caches, backend, dist.TCPStore("127.0.0.1", port), ranks)
            os._exit(0)
        children.append(child)
    # After the forks, for its threads may hold locks of the C library at any moment.
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(write_end, f"{server.port:6}".encode() * ranks)
    return max(os.waitpid(child, 0)[1] for child in children)


def main():
    folder, caches, backend = Path(sys.argv[1]), *sys.argv[2:4]
    if "RANK" in os.environ:
        run(int(os.environ["RANK"]), folder, caches, backend)
    else:
        sys.exit(min(1, fork_ranks(folder, caches, backend, int(sys.argv[4]))))


if __name__ == "__main__":
    main()
