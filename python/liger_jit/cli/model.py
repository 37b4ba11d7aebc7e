"""What commands that take a config.json share: the model without weights, and its kernels."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from .. import library
from ..compile_ahead import TOKENS, prepare, progress_bar, wait
from ..model_config import model_without_weights
from . import UsageError

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


def add_step(parser: argparse.ArgumentParser) -> None:
    """The size of a training step."""
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES), help="of the weights")
    parser.add_argument("--batch", type=int, default=1, help="sequences in a step (1)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"in a sequence ({TOKENS})")


def model_of(asked: argparse.Namespace) -> torch.nn.Module:
    """The causal language model of `--config` with weights of `--dtype`, on the meta device."""
    try:
        return model_without_weights(asked.config, DTYPES[asked.dtype])
    except (FileNotFoundError, ValueError) as trouble:
        raise UsageError(str(trouble)) from None


def compile_for(target: str, replay: Callable[[], None], quiet: bool) -> dict:
    """Compiles what the calls of `replay` need and the cache lacks, and says how it went."""
    mode = library.ask("_environment")["cache"]["mode"]
    if mode == "readonly":
        raise UsageError(
            "LIGER_JIT_CACHE_MODE=readonly keeps nothing of what is compiled; unset it"
        )
    before = library.ask("_stats")["counters"]
    kernels = prepare(replay, target, awaited=True)
    with progress_bar(not quiet, f"compiling for {target}") as show:
        failed = wait(show)
    after = library.ask("_stats")["counters"]
    return {
        "arch": target,
        "kernels": kernels,
        "compiled": after["compiled"] - before["compiled"],
        "from_cache": sum(
            after[name] - before[name]
            for name in ("hit_disk", "hit_readonly", "hit_remote", "hit_group")
        ),
        "failed": failed,
    }
