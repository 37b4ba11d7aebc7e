"""Training steps one after another, timed."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

LEARNING_RATE = 1e-4


def timed_steps(
    model: torch.nn.Module, loss_of_step: Callable[[], Tensor], job: dict, begin: float
) -> dict:
    """Median seconds of job["steps"] steps, after the first and those that begin within
    job["warm_up_s"] of its end. The first is timed from `begin`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    losses, seconds = [], []
    last = begin
    warm = 1  # steps that no median counts
    while len(seconds) < warm + job["steps"]:
        loss = loss_of_step()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))  # this waits for a GPU
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(seconds) == 1:
            first_end = last
        if last - first_end < job["warm_up_s"]:
            warm = len(seconds)
    return {
        "step_s": statistics.median(seconds[warm:]),
        "first_step_s": seconds[0],
        "peak_gib": peak_gib(job["device"]),
        "losses": losses[: 1 + job["steps"]],
    }


def peak_gib(device: str) -> float:
    """What torch held on the GPU; on the CPU the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
