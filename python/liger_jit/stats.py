"""What happened in this process, and what a kernel found wrong."""

from __future__ import annotations

from typing import Any

from . import library


def stats() -> dict[str, Any]:
    """The counters of this process and its recent warnings.

    `counters` holds, among others, `compiled` (units given to a compiler), `hit_memory`, `hit_disk`
    and `hit_readonly` (kernels by the layer that answered), `corrupt` (cache entries that failed
    verification), `pruned` (files removed to keep the cache below its size) and `tuned` (kernels
    whose variants were timed). `warnings` are texts, oldest first.
    """
    return library.ask("_stats")


def check() -> None:
    """Raises if a kernel met a label out of range on a GPU; waits for the GPU to find out.

    On a GPU such a row gets a NaN loss and no gradient, because looking at labels would stall the
    stream. The next call of the same op raises as well; this asks now. Training can go on after it.
    """
    library.native()._check()
