"""Compiles all kernels that training a Hugging Face model needs, for any target, with no GPU.

Takes the model's config.json, builds the model without weights, patches it, and fills the cache
(LIGER_JIT_CACHE) for each target. `liger-jit cache export` makes one file of it for where the GPUs
are. Exit code 1 if a kernel does not compile.

examples:
  liger-jit compile --config model/config.json --arch sm_80,sm_90a,gfx90a,cpu
  liger-jit compile --config model --arch sm_90a --dtype bf16 --batch 8 --tokens 4096 --json
"""

from __future__ import annotations

import argparse

from .. import library, patch
from .model import add_step, compile_for, model_of
from .output import console, notes, print_json, print_table


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config.json, or the folder that has it")
    parser.add_argument("--arch", required=True, help="targets, with commas: sm_90a,gfx90a,cpu")
    add_step(parser)


def run(asked: argparse.Namespace) -> int:
    handle = patch(model_of(asked))
    replay = handle.meta_calls(asked.batch, asked.tokens)
    results = [compile_for(arch, replay, asked.json) for arch in asked.arch.split(",")]
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
