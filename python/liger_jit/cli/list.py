"""Lists the ops: what each computes, its kernels, and the names that its options take.

examples:
  liger-jit list
  liger-jit list --all --json
"""

from __future__ import annotations

import argparse

from .. import library
from .output import print_json, print_table


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also ops that only other ops call")


def run(asked: argparse.Namespace) -> int:
    ops = [op for op in library.ops() if asked.all or not op["internal"]]
    if asked.json:
        print_json(ops)
        return 0
    rows = [
        [op["name"], op["doc"], ", ".join(kernel["name"] for kernel in op["kernels"]), options(op)]
        for op in ops
    ]
    columns = ["op", "computes", "kernels", "options"]
    print_table(f"{len(ops)} ops", columns, rows)
    return 0


def options(op: dict) -> str:
    """Those that have names, with all of them."""
    named = [one for one in op["inputs"] if one["choices"]]
    return "; ".join(f"{one['name']}: {', '.join(one['choices'])}" for one in named)
