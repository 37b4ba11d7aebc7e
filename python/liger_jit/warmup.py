"""Compiles and tunes ahead of the first step.

Operators called on meta tensors register the kernels that they would need. So a replay of a patched
model's calls on meta tensors, which costs milliseconds, tells what a training step will ask for.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .library import native
from .patch.handle import Handle
from .patch.rule import MetaCall, replay_of

TOKENS = 2048  # in a sequence, where the caller does not say

# What `patch` found for each live model, for `warmup(model)`. Its handle would keep it alive.
_patched: weakref.WeakKeyDictionary[torch.nn.Module, list[MetaCall]] = weakref.WeakKeyDictionary()


def warmup(
    model_or_specs: Any,
    batch: int = 1,
    tokens: int = TOKENS,
    device: torch.device | str | None = None,
    progress: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, int]:
    """Makes every kernel that a training step will need, so that the first step waits for none.

    Args:
        model_or_specs: what `liger_jit.patch` returned, or a model that it patched, or the path of
            a Hugging Face config.json or of its folder, or a list of (op name, {argument: value}).
            There a tensor stands for its shape and dtype and may be on the meta device; one that
            requires a gradient brings the op's backward in.
        batch, tokens: size of a step. Kernels serve every size, but they are tuned near this one;
            a loss of very few rows, and one with memory="min", has kernels for its own size.
        device: where they will run; by default the model's device, else a GPU if there is one.
        progress: show a progress bar.
        dtype: of the weights, for a config.json.

    Returns {"units": kernels the step needs, "tuned": kernels tuned now}. What the cache on disk
    has is neither compiled nor tuned again.

    Raises:
        TypeError: none of the above.
        FileNotFoundError, ValueError: a path of nothing, or not of a causal language model.
        RuntimeError: a kernel cannot be compiled; the compiler's own words are in it.
    """
    if isinstance(model_or_specs, (str, os.PathLike)):
        model_or_specs = _planned(model_or_specs, dtype)
    replay, home = _calls_of(model_or_specs, batch, tokens)
    device = torch.device(device) if device is not None else home
    units = prepare(replay, target_of(device), awaited=True)
    with progress_bar(progress) as show:
        failed = wait(show)
    if failed:
        raise RuntimeError(f"liger_jit: {len(failed)} kernels failed to compile:\n{failed[0]}")
    tuned = native()._tune_prepared(str(device))
    return {"units": units, "tuned": tuned}


def start_background_compile(model: torch.nn.Module, calls: list[MetaCall]) -> None:
    """Starts the compiles of these operator calls for the model's device, and returns at once.

    A compile that fails here says nothing: the op that needs it compiles again and raises.
    """
    device = _device_of(model)
    if device.type in ("cpu", "cuda"):
        prepare(replay_of(calls, 1, TOKENS), target_of(device))


def remember(handle: Handle) -> None:
    """Lets `warmup` be called with the model alone."""
    _patched[handle.model] = handle._calls


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


def meta_replay(specs: Iterable[tuple[str, dict[str, Any]]]) -> Callable[[], None]:
    """A function that calls each (op, arguments) on meta tensors, forward and backward."""
    calls = [(name, _on_meta(arguments)) for name, arguments in specs]

    def replay() -> None:
        for name, arguments in calls:
            outputs = getattr(native(), name)(**arguments)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            wanted = next((output for output in outputs if output.requires_grad), None)
            # A step holds no other output either, and what nobody holds is scaled where it lies.
            del outputs
            if wanted is not None:
                wanted.backward(torch.empty_like(wanted))

    return replay


@contextmanager
def progress_bar(visible: bool, title: str = "compiling kernels") -> Iterator[Callable]:
    """Gives a function that takes (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not visible) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _calls_of(given: Any, batch: int, tokens: int) -> tuple[Callable[[], None], torch.device]:
    if isinstance(given, Handle):
        home = _device_of(given.model)
        return given.meta_calls(batch, tokens), _likely() if home.type == "meta" else home
    if isinstance(given, torch.nn.Module):
        if given not in _patched:
            raise TypeError(
                f"liger_jit.warmup: this {type(given).__name__} is not patched; call "
                "`liger_jit.patch(model)` first"
            )
        return replay_of(_patched[given], batch, tokens), _device_of(given)
    if isinstance(given, (list, tuple)) and all(_is_spec(spec) for spec in given):
        return meta_replay(given), _likely()
    raise TypeError(
        "liger_jit.warmup takes what `liger_jit.patch` returned, a patched model, the path of a "
        f"config.json, or a list of (op name, {{argument: value}}); not {type(given).__name__}"
    )


def _planned(config: str | os.PathLike, dtype: torch.dtype) -> Handle:
    from .model_config import model_without_weights
    from .patch import patch  # which needs this module

    return patch(model_without_weights(config, dtype))


def _likely() -> torch.device:
    """Where a model without a device of its own will be trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _is_spec(spec: Any) -> bool:
    return (
        isinstance(spec, (list, tuple))
        and len(spec) == 2
        and isinstance(spec[0], str)
        and isinstance(spec[1], dict)
    )


def _on_meta(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in arguments.items()
    }


def _device_of(model: torch.nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
