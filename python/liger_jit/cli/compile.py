"""Compiles all kernels that training a Hugging Face model needs, for any target, with no GPU.

Takes the model's config.json, builds the model without weights, patches it, and fills the cache
(LIGER_JIT_CACHE) for each target. Copy that folder to where the GPUs are, or list it there in
LIGER_JIT_CACHE_READONLY. Exit code 1 if a kernel does not compile.

examples:
  liger-jit compile --config model/config.json --arch sm_80,sm_90a,gfx90a,cpu
  liger-jit compile --config model --arch sm_90a --dtype bf16 --batch 8 --tokens 4096 --json
"""

from __future__ import annotations

import argparse

import torch

from .. import library, patch
from ..model_config import model_without_weights
from ..warmup import TOKENS, prepare, progress_bar, wait
from . import UsageError
from .output import console, notes, print_json, print_table

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config.json, or the folder that has it")
    parser.add_argument("--arch", required=True, help="targets, with commas: sm_90a,gfx90a,cpu")
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES), help="of the weights")
    parser.add_argument("--batch", type=int, default=1, help="sequences in a step (1)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"in a sequence ({TOKENS})")


def run(asked: argparse.Namespace) -> int:
    try:
        model = model_without_weights(asked.config, DTYPES[asked.dtype])
    except (FileNotFoundError, ValueError) as trouble:
        raise UsageError(str(trouble)) from None
    handle = patch(model)
    replay = handle.meta_calls(asked.batch, asked.tokens)
    results = [_compile_for(arch, replay, asked.json) for arch in asked.arch.split(",")]
    failed = [error for result in results for error in result["failed"]]
    folder = library.ask("_cache", "ls")["folder"]
    if asked.json:
        modules = {role: done for role, (done, _) in handle.report().counts.items()}
        print_json({"cache": folder, "modules": modules, "targets": results})
    else:
        rows = [
            [
                result["arch"],
                result["kernels"],
                result["compiled"],
                result["from_cache"],
                len(result["failed"]),
            ]
            for result in results
        ]
        print_table("", ["target", "kernels", "compiled", "from cache", "failed"], rows)
        console.print(f"cache: {folder or 'memory only, so nothing was kept'}", highlight=False)
        if failed:  # one is enough to read; --json has all
            notes.out(failed[0], highlight=False)
    return 1 if failed or not folder else 0


def _compile_for(arch: str, replay, quiet: bool) -> dict:
    before = library.ask("_stats")["counters"]
    kernels = prepare(replay, arch)
    with progress_bar(not quiet, f"compiling for {arch}") as show:
        failed = wait(show)
    after = library.ask("_stats")["counters"]
    return {
        "arch": arch,
        "kernels": kernels,
        "compiled": after["compiled"] - before["compiled"],
        "from_cache": sum(
            after[name] - before[name] for name in ("hit_disk", "hit_readonly", "hit_remote")
        ),
        "failed": failed,
    }
