"""Ranks that train a model with experts: expert_models_rank.py FOLDER gloo|nccl RANKS.

Tells of each way to replicate or shard it its losses without a patch and with one, and how many
forwards of experts were their own all the same.
"""

import torch
from family_models import tiny
from liger_jit.patch import patch
from ranks import as_ranks
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

STEPS = 3


def sharded(model):
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def sharded_with_experts_apart(model):
    for layer in model.model.layers:
        fully_shard(layer.mlp.experts)
    return sharded(model)


WAYS = (DistributedDataParallel, sharded, sharded_with_experts_apart)


def trained(rank, device, spread, patched):
    model, inputs = tiny("mixtral")
    # On a GPU experts in float32 stay with the model's own code, which is no slower there.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = model.to(device, dtype)
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(3, 90, (2, 24), generator=generator).to(device)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    inputs |= {"input_ids": ids, "labels": ids}
    handle = patch(model) if patched else None
    model = spread(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(STEPS):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    rows = [row for row in handle.report() if "Experts" in row.module] if handle else []
    own = sum(row.own_calls for row in rows)
    return {"dtype": str(dtype), "losses": losses, "own": own, "rows": len(rows)}


def run(rank, folder, device):
    return {
        spread.__name__: [trained(rank, device, spread, patched) for patched in (False, True)]
        for spread in WAYS
    }


if __name__ == "__main__":
    as_ranks(run)
