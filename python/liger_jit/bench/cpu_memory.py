"""What torch's allocator holds on the CPU while a call runs, as torch's profiler records it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """How far it rises above what was held before."""
    return peak_and_held_bytes(work)[0]


def peak_and_held_bytes(work: Callable[[], object]) -> tuple[int, int]:
    """How far it rises above what was held before, and what more is held when the call returns."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else each recording is told on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()  # till the recording ends: what the call returns belongs to it
    del kept
    held = peak = 0
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    for _, change in sorted(_changes(tree)):
        held += change
        peak = max(peak, held)
    return peak, held


def _changes(events: list) -> Iterator[tuple[int, int]]:
    """(when, bytes allocated; those freed are negative)."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _changes(event.children)
