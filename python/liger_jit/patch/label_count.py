"""How many labels of a batch count, found out beside the model's forward.

The loss leaves ignored tokens out of its products if it knows their number. A GPU is asked where
the model's forward begins and answers while the forward is still being queued, so the stream never
runs dry: the wait is over when the GPU has come to this step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class LabelCount:
    """`count()` labels of a batch of `size` are not -100."""

    size: int
    count: Callable[[], int]

    @classmethod
    def begin(cls, labels: Tensor) -> "LabelCount | None":
        """None where nobody can wait, and on the CPU, where the loss counts for itself."""
        if type(labels) is not Tensor or not labels.is_cuda or torch.compiler.is_compiling():
            return None
        with torch.cuda.device(labels.device):
            if torch.cuda.is_current_stream_capturing():
                return None
            on_host = torch.empty((), dtype=torch.int64, pin_memory=True)
            on_host.copy_(labels.ne(IGNORED).sum(), non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()

        def count() -> int:
            copied.synchronize()
            return int(on_host)

        return cls(labels.numel(), count)

    def bound_for(self, target: Tensor, ignore_index: int) -> int | None:
        """At least as many as count in `target`, which a loss made from the labels by shifting or
        by ignoring more; None if it cannot have been made so."""
        if ignore_index != IGNORED or target.numel() > self.size:
            return None
        return self.count()
