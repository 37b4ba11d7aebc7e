"""Time and memory of a call, on a GPU or on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from .cpu_memory import peak_and_held_bytes, peak_bytes

Work = Callable[[], object]


class Clock:
    """`quick` repeats next to nothing: it tries that all runs, and its figures mean nothing."""

    def __init__(self, device: str, quick: bool = False):
        self.device = device
        self.quick = quick
        if device == "cuda":
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            self._flushed = torch.empty(4 * cache, dtype=torch.uint8, device=device)

    def device_ms(self, work: Work) -> float:
        """Median time that the device spends, with a cold L2 cache on a GPU."""
        for _ in range(1 if self.quick else 3):
            work()
        self._synchronize()
        begin = time.perf_counter()
        work()
        host_s = time.perf_counter() - begin
        self._synchronize()
        whole_s = time.perf_counter() - begin
        fewest = 3 if whole_s > 0.5 else 10
        repetitions = 3 if self.quick else min(max(int(0.2 / whole_s), fewest), 100)
        if self.device == "cpu":
            return statistics.median(_seconds(work) * 1e3 for _ in range(repetitions))
        return self._between_events_ms(work, repetitions, host_s)

    def _between_events_ms(self, work: Work, repetitions: int, host_s: float) -> float:
        # The GPU idles until the host has queued the whole call: what the host costs is a figure of
        # its own. Two cycles are about a nanosecond.
        idle_cycles = int(min(1.5 * host_s, 5e-3) * 2e9)
        events = []
        for _ in range(repetitions):
            self._flushed.zero_()
            torch.cuda._sleep(idle_cycles)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            events.append((begin, end))
        self._synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events)

    def host_us(self, work: Work) -> float:
        """Median time until the call returns, whether or not the device is done."""
        batches, calls = (2, 2) if self.quick else (20, 50)
        for _ in range(calls):
            work()
        samples = []
        for _ in range(batches):
            self._synchronize()
            begin = time.perf_counter()
            for _ in range(calls):
                work()
            samples.append((time.perf_counter() - begin) / calls * 1e6)
        self._synchronize()
        return statistics.median(samples)

    def peak_mib(self, work: Work) -> float:
        """How far torch's memory rises above what is held now."""
        work()
        if self.device == "cpu":
            return peak_bytes(work) / 2**20
        self._synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def kept_mib(self, work: Callable[[], tuple[torch.Tensor, ...]]) -> float:
        """What torch's memory holds more than before beside the outputs while those live."""
        outputs = sum(output.nbytes for output in work())
        if self.device == "cpu":
            return (peak_and_held_bytes(work)[1] - outputs) / 2**20
        before = torch.cuda.memory_allocated()
        returned = work()
        held = torch.cuda.memory_allocated() - before
        del returned
        return (held - outputs) / 2**20

    def copy_bytes_per_ms(self) -> float:
        """Bytes read and written by a copy far larger than any cache."""
        size = 2**22 if self.quick else 2**30 if self.device == "cuda" else 2**27
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self.device_ms(lambda: target.copy_(source))

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _seconds(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
