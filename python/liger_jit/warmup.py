"""Compiles and tunes ahead of the first step.

Operators called on meta tensors register the kernels that they would need. So a replay of a patched
model's calls on meta tensors, which costs milliseconds, tells what a training step will ask for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from .compile_ahead import TOKENS, device_of, prepare, progress_bar, target_of, wait
from .library import native
from .meta_calls import meta_replay, replay_of
from .model_config import model_without_weights
from .patch import Handle, patch
from .patch.handle import calls_of_patched


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
        model_or_specs = patch(model_without_weights(model_or_specs, dtype))
    replay, home = _calls_of(model_or_specs, batch, tokens)
    device = torch.device(device) if device is not None else home
    units = prepare(replay, target_of(device), awaited=True)
    with progress_bar(progress) as show:
        failed = wait(show)
    if failed:
        raise RuntimeError(f"liger_jit: {len(failed)} kernels failed to compile:\n{failed[0]}")
    tuned = native()._tune_prepared(str(device))
    return {"units": units, "tuned": tuned}


def _calls_of(given: Any, batch: int, tokens: int) -> tuple[Callable[[], None], torch.device]:
    if isinstance(given, Handle):
        home = device_of(given.model)
        return given.meta_calls(batch, tokens), _likely() if home.type == "meta" else home
    if isinstance(given, torch.nn.Module):
        calls = calls_of_patched(given)
        if calls is None:
            raise TypeError(
                f"liger_jit.warmup: this {type(given).__name__} is not patched; call "
                "`liger_jit.patch(model)` first"
            )
        return replay_of(calls, batch, tokens), device_of(given)
    if isinstance(given, (list, tuple)) and all(_is_spec(spec) for spec in given):
        return meta_replay(given), _likely()
    raise TypeError(
        "liger_jit.warmup takes what `liger_jit.patch` returned, a patched model, the path of a "
        f"config.json, or a list of (op name, {{argument: value}}); not {type(given).__name__}"
    )


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
