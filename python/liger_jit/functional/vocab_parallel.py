"""Cross entropy of logits whose classes are spread over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .. import ops
from ..library import native
from .exchange import place_in, told_by_all

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_OP = "vocab_parallel_cross_entropy"
_FORMULAS = ops.choices(_OP, "label_smoothing_formula")
_MODES = ops.choices(_OP, "label_smoothing_mode")


def vocab_parallel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    group: ProcessGroup | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    label_smoothing_formula: str = "pytorch",
    label_smoothing_mode: str = "global",
) -> Tensor:
    """The loss of each row, of logits of which each rank of a group has as many classes, in order.

        loss = (1 - a) * (lse - z[y])  +  a / K * sum_i (lse - z[i])

    where z are the logits of all ranks and lse = log(sum(exp(z))). The logits are read once, then
    the ranks tell each other four numbers a row by one collective, and the backward reads the
    logits once and writes their gradient. Nobody waits for a GPU.

    Megatron-LM, arXiv:1909.08053. Smoothing: Szegedy et al., arXiv:1512.00567.

    Args:
        logits: [..., V]: on rank r the classes r V to (r + 1) V - 1. Never changed.
        target: [...], int64: classes of all, the same on each rank. A label other than ignore_index
            outside 0 .. ranks * V - 1 is an error.
        group: a process group of torch.distributed; None: this process has all classes.
        ignore_index: the label of rows that count nothing.
        label_smoothing: s, from 0 to less than 1.
        label_smoothing_formula: "pytorch": a = s. "megatron": a = s * K / (K - 1), where the
            label's own class has no share of s.
        label_smoothing_mode: "global": the sum is over the K classes of all ranks. "partition":
            over the K = V of this rank, so that ranks have different losses.

    Returns:
        float32 (float64 for float64), of target's shape, 0 where ignored.

    Raises:
        ValueError: an option, shape or dtype that does not fit. On the CPU also a label out of
            range, naming row and value; on a GPU such a row's loss is NaN, it has no gradient, and
            `liger_jit.check()` raises the error.
    """
    formula = ops.choice(_OP, "label_smoothing_formula", label_smoothing_formula, _FORMULAS)
    mode = ops.choice(_OP, "label_smoothing_mode", label_smoothing_mode, _MODES)
    rows = ops.flat(_OP, "logits", logits, 2)
    labels = ops.flat(_OP, "target", target, 1)
    if rows.dim() == 1:
        rows, labels = rows.unsqueeze(0), labels.reshape(-1)
    rank, ranks = place_in(group)
    statistics = None
    if ranks > 1:
        own = native().vocab_parallel_statistics.default(
            rows.detach(), labels, rank, ignore_index, label_smoothing != 0.0
        )
        statistics = told_by_all(own, group)
    options = (rank, ranks, ignore_index, label_smoothing, formula, mode)
    loss, _ = ops.vocab_parallel_cross_entropy(rows, labels, statistics, *options)
    return loss.view(target.shape)
