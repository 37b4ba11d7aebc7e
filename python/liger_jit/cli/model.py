"""A Hugging Face model from its config.json, without weights, and what its training step needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from .. import library
from ..warmup import TOKENS, prepare, progress_bar, wait
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


def model_without_weights(config: str, dtype: str) -> torch.nn.Module:
    """The causal language model of a config.json, on the meta device."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as missing:
        raise RuntimeError("this needs transformers: pip install transformers") from missing
    if not Path(config).exists():
        raise UsageError(f"there is no {config}")
    try:
        settings = AutoConfig.from_pretrained(config, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, dtype=DTYPES[dtype]).train()
    except (OSError, ValueError) as trouble:
        raise UsageError(f"{config} is no config of a causal language model: {trouble}") from None


def compile_for(target: str, replay: Callable[[], None], quiet: bool) -> dict:
    """Compiles what the calls of `replay` need and the cache lacks, and says how it went."""
    before = library.ask("_stats")["counters"]
    kernels = prepare(replay, target)
    with progress_bar(not quiet, f"compiling for {target}") as show:
        failed = wait(show)
    after = library.ask("_stats")["counters"]
    return {
        "arch": target,
        "kernels": kernels,
        "compiled": after["compiled"] - before["compiled"],
        "from_cache": sum(after[name] - before[name] for name in ("hit_disk", "hit_readonly")),
        "failed": failed,
    }
