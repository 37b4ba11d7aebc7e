"""Log-probabilities under a linear layer whose classes are spread over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .. import ops
from ..library import native
from .exchange import place_in, summed_gradient, told_by_all

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_OP = "vocab_parallel_log_probs"


def vocab_parallel_log_probs(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    group: ProcessGroup | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`linear_log_probs` of a layer of which each rank of a group has as many classes, in order.

    Each rank makes the logits of its classes by chunks of tokens, the ranks tell each other four
    numbers a token by one collective, and the backward makes the logits again and adds up the
    input's gradient over ranks by another. Nobody waits for a GPU.

    Args:
        input: [..., H], the same on each rank.
        weight: [V, H], bias: [V] or None: on rank r of the classes r V to (r + 1) V - 1.
        ids: [...] int64, of all classes, the same on each rank; or ignore_index.
        group: a process group of torch.distributed; None: this process has all classes.
        temperature, softcap, ignore_index: as in `linear_log_probs`.
        memory: "auto" or "min", as there. counted_tokens: as there, the same on each rank.

    Returns:
        log_probs, entropy: as `linear_log_probs`, the same bits on each rank. The gradient of input
        is that of the whole layer on each rank, where all ranks use the outputs alike; those of
        weight and bias are of the rank's own part.

    Raises:
        ValueError: as `linear_log_probs`.
    """
    least = ops.choice(_OP, "memory", memory, ops.MEMORY)
    rank, ranks = place_in(group)
    states = ops.flat(_OP, "input", input, 2)
    labels = ops.flat(_OP, "ids", ids, 1)
    options = (
        temperature,
        0.0 if softcap is None else softcap,
        ignore_index,
        rank,
        ranks,
        0,
        least,
        False,  # exact, which logits always are
        ops.counted(counted_tokens),
    )
    parts = None
    if ranks > 1:
        own = native().vocab_parallel_log_probs_part.default(
            states.detach(),
            weight.detach(),
            labels,
            None if bias is None else bias.detach(),
            *options,
        )
        parts = told_by_all(own, group)
        if states.requires_grad:
            states = summed_gradient(states, group)
    log_probs, entropy, _ = ops.vocab_parallel_log_probs(
        states, weight, labels, bias, parts, *options
    )
    return log_probs.view(ids.shape), entropy.view(ids.shape)
