"""How many labels of a batch count, found out beside the model's forward.

The loss leaves ignored tokens out of its products if it knows their number. A GPU is asked where
the model's forward begins and answers while the forward is still being queued, so the stream never
runs dry: the wait is over when the GPU has come to this step. What was counted need not be what the
loss is made from, so the number is only used for a target that is known to come from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class LabelCount:
    """`count()` of these labels were not -100 when they had this version."""

    labels: Tensor
    version: int
    count: Callable[[], int]

    @classmethod
    def begin(cls, labels: Tensor) -> "LabelCount | None":
        """None where nobody can wait, and on the CPU, where the loss counts for itself."""
        if type(labels) is not Tensor or torch.compiler.is_compiling() or labels.is_inference():
            return None
        count = asked_of_gpu(labels)
        return None if count is None else cls(labels, labels._version, count)

    def is_of(self, labels: object) -> bool:
        """Whether these labels are the ones that were counted, unwritten since."""
        return labels is self.labels and self.labels._version == self.version

    def bound_for(self, target: Tensor, ignore_index: int) -> int | None:
        """At least as many as count in `target`, which is known to be the labels in other places,
        with more of them ignored; None if it cannot be."""
        if ignore_index != IGNORED or target.numel() != self.labels.numel():
            return None
        return self.count()


def asked_of_gpu(labels: Tensor) -> Callable[[], int] | None:
    if not labels.is_cuda:
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

    return count
