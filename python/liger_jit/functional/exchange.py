"""What ranks tell each other of rows whose classes are spread over them, and of gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def place_in(group: ProcessGroup | None) -> tuple[int, int]:
    """(rank, number of ranks); without a group there is one."""
    if group is None:
        return 0, 1
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def told_by_all(statistics: Tensor, group: ProcessGroup) -> Tensor:
    """[ranks, ...]: the tensor of each rank, in their order, by one collective.

    Each rank merges them by itself and in the same order, so all have the same bits; a maximum, a
    sum and a choice would else be a collective each. On a GPU the host does not wait.
    """
    ranks = torch.distributed.get_world_size(group)
    told = statistics.new_empty((ranks * statistics.shape[0], *statistics.shape[1:]))
    torch.distributed.all_gather_into_tensor(told, statistics, group=group)
    return told.unflatten(0, (ranks, statistics.shape[0]))


def summed_gradient(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """The tensor, which all ranks have; its gradient is the sum of what each rank has of it."""
    return _SummedGradient.apply(tensor, group)


class _SummedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        # What arrives may be somebody else's as well.
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None
