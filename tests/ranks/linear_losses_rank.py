"""Two ranks that train a head behind each linear loss: this FOLDER gloo|nccl RANKS.

Tells of each loss under DDP and FSDP2 how far the gradients are from those of one process that has
the whole batch, and of one rank's share alone.
"""

import copy

import torch
from linear_losses import LOSSES, arguments_with_bias
from ranks import as_ranks
from samples import operator, tensors_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

HIDDEN, CLASSES = 12, 33
WRAPPED = {"DDP": DistributedDataParallel, "FSDP2": fully_shard}


class Model(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.body = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.op = op

    def forward(self, batch):
        states = self.body(batch["input"])
        layer = {"input": states, "weight": self.head.weight, "bias": self.head.bias}
        outputs = tensors_of(operator(self.op)(**(batch | layer)))
        # Of one number that number; of one a token a loss that is not linear in them.
        losses = [one if one.dim() == 0 else one.square().mean() for one in outputs if one.grad_fn]
        return sum(losses)


def batch_of(op, device):
    """Quarters of the batch have as many labels that count, so that means of ranks are the mean."""
    torch.manual_seed(5)
    values, labels = arguments_with_bias(op, device, rows=8, size=CLASSES, inner=HIDDEN)
    values[labels].view(4, -1)[:, 0] = -100
    return values


def share_of(batch, rank):
    """Of both halves of the batch one half, so that of pairs both are on a rank."""
    tokens = batch["input"].shape[0]
    quarter = tokens // 4
    rows = torch.arange(tokens).view(4, quarter)[rank::2].flatten()

    def of_tokens(value):
        return torch.is_tensor(value) and value.dim() > 0 and value.shape[0] == tokens

    return {name: value[rows] if of_tokens(value) else value for name, value in batch.items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gradients(model, batch):
    model(batch).backward()
    return [whole(parameter.grad).detach().cpu() for parameter in model.parameters()]


def apart(some, wanted):
    return max(
        ((one - other).norm() / other.norm()).item()
        for one, other in zip(some, wanted, strict=True)
    )


def run(rank, folder, device):
    told = {}
    for op in LOSSES:
        torch.manual_seed(3)
        model = Model(op).to(device)
        batch = batch_of(op, device)
        own = share_of(batch, rank)
        wanted = gradients(copy.deepcopy(model), batch)
        told[op] = {"alone": apart(gradients(copy.deepcopy(model), own), wanted)}
        for how, wrap in WRAPPED.items():
            told[op][how] = apart(gradients(wrap(copy.deepcopy(model)), own), wanted)
    return told


if __name__ == "__main__":
    as_ranks(run)
