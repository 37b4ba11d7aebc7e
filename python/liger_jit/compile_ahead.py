"""Compiling what operator calls will need before they are made, in the background."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .library import native
from .meta_calls import MetaCall, replay_of

TOKENS = 2048  # in a sequence, where the caller does not say


def start_background_compile(model: torch.nn.Module, calls: list[MetaCall]) -> None:
    """Starts the compiles of these operator calls for the model's device, and returns at once.

    A compile that fails here says nothing: the op that needs it compiles again and raises.
    """
    device = device_of(model)
    if device.type in ("cpu", "cuda"):
        prepare(replay_of(calls, 1, TOKENS), target_of(device))


def prepare(replay: Callable[[], None], target: str, awaited: bool = False) -> int:
    """Registers what the calls of `replay` need on a target; the number of distinct kernels.

    They compile in the background; `awaited` says that the caller will wait for them.
    """
    native()._prepare_begin(target)
    try:
        # A replay has backward calls, wherever it is asked for.
        with torch.inference_mode(False), torch.enable_grad():
            replay()
    finally:
        units = native()._prepare_end(awaited)
    return units


def wait(show: Callable[[int, int], None]) -> list[str]:
    """Until the background compiles are done, telling `show` (done, total). The errors, as text."""
    while True:
        done, total, _ = native()._progress()
        show(done, total)
        if done >= total:
            return native()._wait()
        time.sleep(0.05)


def target_of(device: torch.device) -> str:
    """The target as `_prepare_begin` wants it: a live GPU is asked for its architecture."""
    return "cpu" if device.type == "cpu" else f"device:{device}"


@contextmanager
def progress_bar(visible: bool, title: str = "compiling kernels") -> Iterator[Callable]:
    """Gives a function that takes (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not visible) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where its weights are; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
