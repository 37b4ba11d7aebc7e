"""Ranks that train a model of transformers, spread over them: model_rank.py FOLDER gloo|nccl RANKS.

For each family and each way to spread it: losses without a patch, with one that came before the
model was spread, and with one that came after.
"""

import liger_jit
import torch
import transformers
from ranks import as_ranks
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

STEPS, VOCABULARY = 4, 97
SETTINGS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
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


def build(family, device):
    torch.manual_seed(4)
    config = getattr(transformers, f"{family}Config")
    model = getattr(transformers, f"{family}ForCausalLM")
    return model(config(**SETTINGS, tie_word_embeddings=FAMILIES[family])).to(device).train()


def train(model, rank, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
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


def launches():
    return liger_jit.stats()["counters"]["launches"]


def run(rank, folder, device):
    told = {}
    for family in FAMILIES:
        for way in WAYS:
            before = launches()
            plain = train(way(build(family, device)), rank, device)
            assert launches() == before
            model = build(family, device)
            early, verified = patched(model)
            first = train(way(model), rank, device)
            model = way(build(family, device))
            late, verified_late = patched(model)
            second = train(model, rank, device)
            told[f"{family}, {way.__name__}"] = {
                "plain": plain,
                "patched": first,
                "patched late": second,
                "status": early,
                "status late": late,
                "verified": verified,
                "verified late": verified_late,
                "launches": launches() - before,
            }
    return told


if __name__ == "__main__":
    as_ranks(run)
