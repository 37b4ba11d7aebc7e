"""Two ranks that train one policy on halves of a batch: policy_rank.py FOLDER gloo|nccl RANKS.

Tells of DDP, FSDP2 and each loss how far the gradients are from those of one process that has the
whole batch.
"""

import copy

import torch
from liger_jit.chunked_loss import LigerFusedLinearDPOLoss, LigerFusedLinearGRPOLoss
from ranks import as_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

HIDDEN, CLASSES, TOKENS = 16, 65, 7


class Policy(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.body = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.loss = loss

    def forward(self, x, **batch):
        states, weight, bias = self.body(x), self.head.weight, self.head.bias
        return self.loss(_input=states, lin_weight=weight, bias=bias, **batch)[0]


def grpo_batch(generator):
    lengths = torch.tensor([[1], [7], [4], [2]])  # of the first rank eight tokens, of the other six
    shape = (4, TOKENS)
    return {
        "x": torch.randn(*shape, HIDDEN, generator=generator),
        "selected_token_ids": torch.randint(CLASSES, shape, generator=generator),
        "attention_mask": (torch.arange(TOKENS) < lengths).long(),
        "advantages": torch.randn(4, generator=generator),
        "old_per_token_logps": torch.randn(shape, generator=generator) - 4,
        "ref_per_token_logps": torch.randn(shape, generator=generator) - 4,
    }


def dpo_batch(generator):
    """Pairs of which a rank has one: chosen first, then rejected."""
    shape = (4, TOKENS)
    return {
        "x": torch.randn(*shape, HIDDEN, generator=generator),
        "target": torch.randint(CLASSES, shape, generator=generator),
    }


def own_rows(name, rank):
    return [rank, rank + 2] if name.startswith("DPO") else [2 * rank, 2 * rank + 1]


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gradients(policy, batch):
    policy(**batch).backward()
    return [whole(parameter.grad).detach().cpu() for parameter in policy.parameters()]


LOSSES = {
    # Its denominator is that of all ranks; the others' are of sequences, of which all have as many.
    "GRPO, dapo": (LigerFusedLinearGRPOLoss, {"loss_type": "dapo"}, grpo_batch),
    "GRPO, cispo": (LigerFusedLinearGRPOLoss, {"loss_type": "cispo"}, grpo_batch),
    "GRPO, sequences": (
        LigerFusedLinearGRPOLoss,
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        grpo_batch,
    ),
    "DPO": (LigerFusedLinearDPOLoss, {"use_ref_model": False}, dpo_batch),
}
WRAPPED = {"DDP": DistributedDataParallel, "FSDP2": fully_shard}


def run(rank, folder, device):
    told = {}
    for name, (loss, options, batch_of) in LOSSES.items():
        torch.manual_seed(3)
        policy = Policy(loss(**options)).to(device)
        batch = batch_of(torch.Generator().manual_seed(5))
        alone = copy.deepcopy(policy)
        # Of one process the tokens of the batch are those of all: what ranks tell adds them twice,
        # and halves them.
        wanted = gradients(alone, {key: value.to(device) for key, value in batch.items()})
        rows = own_rows(name, rank)
        own = {key: value[rows].to(device) for key, value in batch.items()}
        for how, wrap in WRAPPED.items():
            found = gradients(wrap(copy.deepcopy(policy)), own)
            told[f"{name}, {how}"] = max(
                ((one - other).norm() / other.norm()).item()
                for one, other in zip(found, wanted, strict=True)
            )
    return told


if __name__ == "__main__":
    as_ranks(run)
