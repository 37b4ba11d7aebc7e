"""Experts that are spread over ranks: each token goes to the ranks that have its experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..library import native
from .embedding import embedding
from .exchange import place_in
from .experts import experts

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def expert_parallel(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    gate_up_weight: Tensor,
    down_weight: Tensor,
    num_experts: int,
    group: ProcessGroup | None,
) -> Tensor:
    """`experts` whose weights are spread over the ranks of a group: rank r of R has the experts
    from r E / R on, E / R of them.

    Two exchanges of rows forward and two backward. The host waits for the device once, to learn how
    many rows each rank sends: no row is dropped or padded. Every rank of the group has to call it,
    and its backward, with any number of tokens.

    Args:
        x: [T, H], this rank's tokens.
        indices, weights: [T, K], as in `experts`, of all E experts.
        gate_up_weight, down_weight: [E / R, 2 I, H] and [E / R, H, I], this rank's.
        num_experts: E.
        group: None: there is no other rank.

    Returns y, [T, H]. The gradients of weights are those of this rank's experts, over the tokens of
    all ranks. Raises ValueError if num_experts is not R times this rank's, and as `experts`.
    """
    rank, ranks = place_in(group)
    own = gate_up_weight.shape[0]
    if num_experts != own * ranks:
        raise ValueError(
            f"liger_jit::experts: argument 'num_experts' is {num_experts}; allowed: {own * ranks}, "
            f"those of {ranks} ranks with {own} each"
        )
    if ranks == 1:
        return experts(x, indices, weights, gate_up_weight, down_weight)
    order, tokens, places, ends = native().group_by_expert(indices, num_experts)
    sent = _rows_for_ranks(ends, own)
    received = torch.empty_like(sent)
    torch.distributed.all_to_all_single(received, sent, group=group)
    counts = torch.stack((sent, received)).tolist()
    there = order[: sum(counts[0])].long()
    # A pair of nobody has no row: it stays here.
    rows = _Exchange.apply(embedding(x, tokens[: len(there)]), *counts, group)
    routed = _Exchange.apply(weights.reshape(-1)[there].unsqueeze(-1), *counts, group)
    expert = _exchanged(indices.reshape(-1)[there].int(), *counts, group) - rank * own
    made = experts(rows, expert.unsqueeze(-1), routed, gate_up_weight, down_weight)
    back = _Exchange.apply(made, *reversed(counts), group)
    return _summed(back, places, indices)


def _rows_for_ranks(ends: Tensor, own: int) -> Tensor:
    """How many pairs the experts of each rank have: [R]."""
    last = ends[own - 1 :: own].long()
    return last.diff(prepend=last.new_zeros(1))


def _summed(rows: Tensor, places: Tensor, indices: Tensor) -> Tensor:
    """The sum of each token's rows, in float32 and in the order of its experts."""
    nothing = rows.new_zeros(1, rows.shape[1])
    there = places.clamp(max=len(rows)).view(indices.shape)
    # Each row is somebody's once, so its gradient is no sum but for the row of nobody.
    wide = torch.float64 if rows.dtype is torch.float64 else torch.float32
    return embedding(torch.cat((rows, nothing)), there).sum(1, dtype=wide).to(rows.dtype)


def _exchanged(rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    """The rows that the ranks send here, in the order of the ranks."""
    found = rows.new_empty((sum(received), *rows.shape[1:]))
    torch.distributed.all_to_all_single(found, rows.contiguous(), received, sent, group=group)
    return found


class _Exchange(torch.autograd.Function):
    """Rows to the ranks that have their experts; their gradients go the way back."""

    @staticmethod
    def forward(ctx, rows, sent, received, group):
        ctx.way_back = received, sent, group
        return _exchanged(rows, sent, received, group)

    @staticmethod
    def backward(ctx, gradient):
        return _exchanged(gradient, *ctx.way_back), None, None, None
