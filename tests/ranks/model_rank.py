"""Ranks that train a model of transformers, spread over them: model_rank.py FOLDER gloo|nccl RANKS.

For each family and each way to spread it: losses without a patch, with one that came before the
model was spread, and with one that came after.
"""

import liger_jit
import torch
from liger_jit import functional
from ranks import as_ranks
from tiny_models import VOCABULARY, adapt, build
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

STEPS = 4
# With a head of its own, and with the embedding as its head.
FAMILIES = {"Llama": False, "Qwen3": True}


def replicated(model):
    return DistributedDataParallel(model)


def sharded_by_layer(model):
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def sharded_again_after_each_forward(model):
    for layer in model.model.layers:
        fully_shard(layer, reshard_after_forward=True)
    return fully_shard(model, reshard_after_forward=True)


def sharded_with_its_head_apart(model):
    if not model.config.tie_word_embeddings:
        fully_shard(model.lm_head)
    fully_shard(model.model.norm)
    return sharded_by_layer(model)


def flattened(model):
    return FullyShardedDataParallel(model, device_id=model.device)


def flattened_by_layer(model):
    return flattened_parts(model, {type(model.model.layers[0])})


def flattened_with_its_head_apart(model):
    # A weight that two modules share cannot be in two flat ones.
    apart = set() if model.config.tie_word_embeddings else {torch.nn.Linear}
    return flattened_parts(model, {type(model.model.layers[0]), *apart})


def flattened_parts(model, parts):
    return FullyShardedDataParallel(
        model,
        device_id=model.device,
        use_orig_params=True,
        auto_wrap_policy=ModuleWrapPolicy(parts),
    )


WAYS = (
    replicated,
    sharded_by_layer,
    sharded_again_after_each_forward,
    sharded_with_its_head_apart,
    flattened,
    flattened_by_layer,
    flattened_with_its_head_apart,
)


def train(model, rank, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(10 * step + rank)
        ids = torch.randint(VOCABULARY, (2, 11), generator=generator)
        labels = ids.clone()
        labels[0, : 3 + rank] = -100
        loss = model(input_ids=ids.to(device), labels=labels.to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def patched(model):
    handle = liger_jit.patch(model)
    try:
        verified = handle.verify().passed
    except RuntimeError as error:
        verified = str(error)
    return [row.status for row in handle.report()], verified


class Fused:
    """Counts the calls of the fused loss."""

    def __init__(self):
        self.calls, self.function = 0, functional.fused_linear_cross_entropy

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


fused = functional.fused_linear_cross_entropy = Fused()


def trained(model, rank, device):
    """Losses, calls of the fused loss and launches of our kernels of a short training."""
    before = fused.calls, launches()
    losses = train(model, rank, device)
    return {
        "losses": losses,
        "fused": fused.calls - before[0],
        "launches": launches() - before[1],
    }


def launches():
    return liger_jit.stats()["counters"]["launches"]


def run(rank, folder, device):
    told = {}
    for family in FAMILIES:
        for way in WAYS:
            told[f"{family}, {way.__name__}"] = compared(rank, device, way, family)
    for way in (sharded_by_layer, flattened_with_its_head_apart):
        name = f"Llama adapted, {way.__name__}"
        told[name] = compared(rank, device, way, "Llama", adapted=True)
    return told


def compared(rank, device, way, family, adapted=False):
    def made():
        model = build(family, tie_word_embeddings=FAMILIES[family])
        if adapted:
            adapt(model)
        return model.to(device)

    plain = trained(way(made()), rank, device)
    model = made()
    status, verified = patched(model)
    early = trained(way(model), rank, device)
    model = way(made())
    status_late, verified_late = patched(model)
    late = trained(model, rank, device)
    return {
        "plain": plain,
        "patched": {**early, "status": status, "verified": verified},
        "patched late": {**late, "status": status_late, "verified": verified_late},
    }


if __name__ == "__main__":
    as_ranks(run)
