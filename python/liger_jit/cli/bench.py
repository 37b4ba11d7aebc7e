"""Times ops beside other libraries over the cases that they declare, or whole steps of training.

For each case and provider: device time of forward and forward + backward, peak memory above the
inputs, what the backward keeps, error against float64, host time of a small call, and the floor:
the bytes that must move over the copy bandwidth measured in the same run, or the matrix products.
What cannot be measured is listed with the reason. On the CPU cases are cut to 256 rows of at most
4096, and timed in float32 and bfloat16. Exit code 1 if liger_jit failed, or if --check
finds it slower.

examples:
  liger-jit bench
  liger-jit bench rms_norm swiglu --peers eager,liger --json results.jsonl --html results.html
  liger-jit bench --check results.jsonl
  liger-jit bench --memory --peers eager,liger --json memory.jsonl
  liger-jit bench --train-step llama-1b qwen3-0.6b --json results.jsonl
  liger-jit bench --post-training grpo dpo distillation --peers eager,liger,trl
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from ..bench.cases import SMALL, cut_for_cpu, declared
from ..bench.check import ALLOWED, changes
from ..bench.clock import Clock
from ..bench.measure import measured
from ..bench.memory import memory_by_tokens
from ..bench.models import MODELS
from ..bench.page import page
from ..bench.peers import PEERS
from ..bench.post_training.settings import STEPS
from ..bench.post_training.steps import post_training_steps
from ..bench.results import OURS, append, machine, read, subject_of
from ..bench.train_step import train_steps
from . import UsageError
from .output import console, print_table

_MEMORY = "measure the peak memory of linear losses as tokens grow instead"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ops", nargs="*", metavar="OP", help="all, where none is named")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {','.join(PEERS)} (all)")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="a GPU if there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line for each figure")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with bars")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with stored lines")
    parser.add_argument("--commit", help="of the code, where it is not a checkout")
    parser.add_argument("--quick", action="store_true", help="tiny: tries that all runs")
    parser.add_argument("--memory", action="store_true", help=_MEMORY)
    parser.add_argument("--train-step", nargs="+", choices=MODELS, metavar="MODEL", help=_models())
    parser.add_argument("--post-training", nargs="+", choices=STEPS, metavar="STEP", help=_steps())


def run(asked: argparse.Namespace) -> int:
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch sees no GPU; take --device cpu, or see `liger-jit env`")
    peers = [peer for peer in asked.peers.split(",") if peer]
    for peer in peers:
        if peer not in PEERS:
            raise UsageError(f"there is no peer {peer!r}; allowed: {', '.join(PEERS)}")
    if (asked.train_step or asked.post_training) and asked.ops:
        raise UsageError("training steps are of models, not of ops; leave one of the two away")
    if sum(map(bool, (asked.memory, asked.train_step, asked.post_training))) > 1:
        raise UsageError("--memory, --train-step and --post-training: leave all but one away")
    stored = _stored(asked.check)
    about = machine(device, asked.commit)
    console.print(f"{about['device']}, commit {about['commit']}", highlight=False)
    if asked.train_step:
        found = train_steps(asked.train_step, peers, device)
    elif asked.post_training:
        found = post_training_steps(asked.post_training, peers, device)
    elif asked.memory:
        found = memory_by_tokens(asked.ops, peers, Clock(device))
    else:
        found = _measured_ops(asked, peers, device)
    lines = []
    for line in found:
        lines.append({**line, **about})
        console.print(_told(line), highlight=False, markup=False, soft_wrap=True)
        if asked.json:
            append(asked.json, lines[-1:])
    if asked.html:
        asked.html.write_text(page(lines))
    slower = _check(lines, stored) if asked.check else False
    failed = any("failed" in line and line["provider"].startswith(OURS) for line in lines)
    return 1 if failed or slower else 0


def _models() -> str:
    return f"time training steps of these instead: {', '.join(MODELS)}"


def _steps() -> str:
    return f"time whole steps of these instead, beside TRL's trainers: {', '.join(STEPS)}"


def _measured_ops(asked: argparse.Namespace, peers: list[str], device: str) -> Iterator[dict]:
    cases = declared(asked.ops)
    if asked.quick:
        cases = [case.at_most(*SMALL) for case in cases]
    elif device == "cpu":
        cases = cut_for_cpu(cases)
    clock = Clock(device, asked.quick)
    bytes_per_ms = clock.copy_bytes_per_ms()
    console.print(f"copy {bytes_per_ms / 1e6:.0f} GB/s", highlight=False)
    for line in measured(cases, peers, clock, bytes_per_ms):
        yield {**line, "copy_gb_per_s": round(bytes_per_ms / 1e6, 1)}


def _stored(path: Path | None) -> list[dict]:
    if path and not path.is_file():
        raise UsageError(f"there is no {path} to check against")
    return read(path) if path else []


def _told(line: dict) -> str:
    """A line for a person: who, on what, and the figures."""
    who = f"{line['kind']:16} {subject_of(line):52} {line['provider']:22}"
    why = line.get("absent") or line.get("failed")
    if why:
        return f"{who} {'absent' if 'absent' in line else 'FAILED'}: {why}"
    shown = ("_ms", "_us", "_mib", "_gib", "_per_s", "_s", "error")
    figures = (f"{k} {v:g}" for k, v in line.items() if k.endswith(shown) and _is_number(v))
    return f"{who} {'  '.join(figures)}"


def _is_number(value) -> bool:
    return isinstance(value, (int, float))


def _check(lines: list[dict], stored: list[dict]) -> bool:
    compared = changes(lines, stored)
    worse = [change for change in compared if change.worse]
    allowed = f"{ALLOWED - 1:.0%}"
    if not worse:
        console.print(f"{len(compared)} ratios, none worse by more than {allowed}")
        return False
    rows = [
        [one.what, one.ratio, f"{one.stored:.3f}", f"{one.now:.3f}", f"{one.factor - 1:+.0%}"]
        for one in sorted(worse, key=lambda change: -change.factor)
    ]
    title = f"{len(worse)} of {len(compared)} ratios are worse by more than {allowed}"
    print_table(title, ["case", "ratio", "stored", "now", "change"], rows)
    return True
