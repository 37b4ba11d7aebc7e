"""Shows the kernels of an op for one dtype, size and target: generated unit and resources.

The unit is the whole of what is generated; with --expanded come the templates that it includes,
which makes one source that compiles by itself: a bug report needs no more.

examples:
  liger-jit show rms_norm --dtype bf16 --size 4096 --arch sm_90a
  liger-jit show cross_entropy --size 49152 --rows 1024 --arch gfx90a --json
  liger-jit show swiglu --arch cpu --expanded --no-compile > swiglu.cpp
"""

from __future__ import annotations

import argparse
import difflib

from .. import library
from . import UsageError
from .output import console, print_json

RESOURCES = (
    ("registers", "registers"),
    ("spill_bytes", "bytes spilled"),
    ("stack_bytes", "bytes of stack"),
    ("shared_bytes", "bytes of shared memory"),
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("op", help="its name; `liger-jit list` has them")
    parser.add_argument("--dtype", default="bf16", help="bf16 (default), fp16, fp32 or fp64")
    for name, size in library.example_sizes().items():
        told = f"{size['meaning']} ({size['usual']})"
        parser.add_argument(f"--{name}", type=_positive, help=told)
    parser.add_argument("--arch", default="cpu", help="cpu (default), sm_90a, gfx90a, …")
    parser.add_argument("--expanded", action="store_true", help="with the templates it includes")
    parser.add_argument("--no-compile", action="store_true", help="only generate")


def run(asked: argparse.Namespace) -> int:
    names = [op["name"] for op in library.ops()]
    if asked.op not in names:
        near = difflib.get_close_matches(asked.op, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"the ops are: {', '.join(names)}"
        raise UsageError(f"there is no op {asked.op!r}; {hint}")
    named = {name: getattr(asked, name) for name in library.example_sizes()}
    sizes = {name: size for name, size in named.items() if size is not None}
    answer = library.ask("_show", asked.op, asked.dtype, sizes, asked.arch, not asked.no_compile)
    if asked.json:
        print_json(answer)
        return 0
    for kernel in answer["kernels"]:
        text = kernel["expanded"] if asked.expanded else kernel["unit"]
        console.out(f"// {kernel['kernel']} for {kernel['arch']}\n{text}", highlight=False)
        if not asked.no_compile:
            told = [f"{kernel[name]} {title}" for name, title in RESOURCES if kernel[name] >= 0]
            told.append(f"compiled in {kernel['compile_ms']:.1f} ms")
            # As a comment, so that the output stays a source.
            console.out(f"// {', '.join(told)}\n", highlight=False)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value
