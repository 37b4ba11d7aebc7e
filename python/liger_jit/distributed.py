"""Ranks of a job share what they compile and tune through the store of their process group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .library import native

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def use_process_group(group: ProcessGroup | None) -> None:
    """Names the process group whose ranks share kernels and picks; None: share with nobody.

    Nobody needs to call this: once `torch.distributed.init_process_group` has been called, its
    default group is found by the first operator that needs a kernel. Each kernel is then compiled
    by one rank, each shape is timed by one rank, and all ranks take the same variant. There is no
    collective in it, so operators that only some ranks call are fine, and a store that is slow or
    gone costs a rank a fifth of a second, after which it compiles by itself.

    Call it on each rank, before the first operator, to share within a smaller group, such as the
    ranks of one node: `use_process_group(dist.new_group(ranks_of_this_node))`.
    """
    native()._use_process_group("" if group is None else group.group_name)
