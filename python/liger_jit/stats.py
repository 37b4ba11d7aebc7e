"""What happened in this process, and what a kernel found wrong."""

from __future__ import annotations

from typing import Any

from . import library


def stats() -> dict[str, Any]:
    """The counters of this process and its recent warnings.

    `counters` holds, among others:

    - by the layer that answered: `hit_memory`, `hit_disk` (the user's folder), `hit_readonly` (a
      folder or bundle), `hit_group` (another rank), `hit_remote`, and `compiled` (units given to a
      compiler);
    - `tune_hit`, `pick_group` and `tuned`, kernels whose variants had been timed, whose pick was
      another rank's, and that were timed now;
    - `plans`, calls that met a new shape, and `units_expanded`, sources put together for them;
    - `wait_expired`, waits for another process that ended in vain; `group_trouble`, calls of the
      group's store that failed;
    - `miss_disk`, `miss_remote`; `corrupt` and `remote_rejected`, what failed verification;
    - `published`, `publish_failed`, `remote_published`; `pruned`, files removed to keep the cache
      below its size; `remote_errors`, requests that failed, and
      `remote_skipped`, those not made because of them;
    - where the time went, in all threads together: `compile_microseconds`, `tune_microseconds`
      (with the compiles it waits for), `load_microseconds`, `remote_microseconds`.

    `warnings` are texts, oldest first.
    """
    return library.ask("_stats")


def check() -> None:
    """Raises if a kernel met a label out of range on a GPU; waits for the GPU to find out.

    On a GPU such a row gets a NaN loss and no gradient, because looking at labels would stall the
    stream. The next call of an op that looks at labels raises as well; this asks now. The error
    names the op that found the first, its argument, which element, its value and what is allowed.
    Training can go on after it.
    """
    library.native()._check()
