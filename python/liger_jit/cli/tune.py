"""Compiles and tunes, on this machine, all that training a Hugging Face model needs.

What was measured is kept in the cache, so that a training run measures nothing; `liger-jit cache
export --config` takes the times along. On a GPU by default; --device cpu tunes for this machine's
CPU. Exit code 1 if there is no such device or a kernel does not compile.

examples:
  liger-jit tune --config model/config.json --batch 8 --tokens 4096
  LIGER_JIT_AUTOTUNE=full liger-jit tune --config model --device cuda:1
  liger-jit tune --config model --device cpu --dtype fp32 --json
"""

from __future__ import annotations

import argparse
import time

import torch

from .. import library, patch
from ..compile_ahead import target_of
from . import UsageError
from .model import add_step, compile_for, model_of
from .output import console, notes, print_json, print_table


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config.json, or the folder that has it")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, cpu")
    add_step(parser)


def run(asked: argparse.Namespace) -> int:
    device = _device(asked.device)
    if _autotune() == "off":
        raise UsageError("LIGER_JIT_AUTOTUNE is off; unset it, or set it to first-run or full")
    replay = patch(model_of(asked)).meta_calls(asked.batch, asked.tokens)
    began = time.monotonic()
    result = compile_for(target_of(device), replay, asked.json)
    if result["failed"]:
        notes.out(result["failed"][0], highlight=False)
        return 1
    before = library.ask("_stats")["counters"]
    tuned = library.native()._tune_prepared(str(device))
    after = library.ask("_stats")["counters"]
    answer = {
        "device": str(device),
        "kernels": result["kernels"],
        "compiled": result["compiled"],
        "tuned": tuned,
        "from_record": after["tune_hit"] - before["tune_hit"],
        "seconds": round(time.monotonic() - began, 3),
        "cache": library.ask("_environment")["cache"]["folder"],
    }
    if asked.json:
        print_json(answer)
    else:
        print_table("", list(answer)[:-1], [list(answer.values())[:-1]])
        where = answer["cache"] or "memory only, so nothing was kept"
        console.print(f"cache: {where}", highlight=False)
    return 0 if answer["cache"] else 1


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"{text!r} is no device; allowed: cuda, cuda:1, cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(
            f"there is no {device} here: torch sees {torch.cuda.device_count()} GPUs. Tune where "
            "the GPU is, or take --device cpu; `liger-jit compile` needs no GPU, and `liger-jit "
            "doctor` says what is wrong with one that is there"
        )
    return device


def _autotune() -> str:
    variables = library.ask("_environment")["variables"]
    return next(one["value"] for one in variables if one["name"] == "LIGER_JIT_AUTOTUNE")
