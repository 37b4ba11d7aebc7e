"""How long a process waits for all kernels of SmolLM2: cold, from a folder, from a bundle.

Needs no GPU: kernels are compiled or taken from the cache for the target, not loaded. Also times
and sizes of `liger-jit cache export` and `import`. Prints JSON lines.

    python bench/cold_start.py --arch sm_90a --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tools" / "seed_model.json"

# A process that asks for every kernel, and tells how long it took from the model to the last one.
ASK = """
import json, sys, time, torch
from liger_jit import patch
from liger_jit.cli.model import compile_for
from liger_jit.model_config import model_without_weights
replay = patch(model_without_weights(sys.argv[1], torch.bfloat16)).meta_calls(8, 1024)
began = time.perf_counter()
answer = compile_for(sys.argv[2], replay, True)
print(json.dumps({**answer, "ms": (time.perf_counter() - began) * 1e3}))
"""


def run(command: list[str], **variables: str) -> tuple[dict, float]:
    """What a process prints as JSON, and its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python"), **variables}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), seconds


def start(what: str, arch: str, rounds: int, **variables: str) -> None:
    answers = [run(["-c", ASK, str(MODEL), arch], **variables) for _ in range(rounds)]
    last = answers[-1][0]
    assert not last["failed"], last["failed"]
    line = {
        "start": what,
        "arch": arch,
        "kernels": last["kernels"],
        "compiled": last["compiled"],
        "kernels_ms": round(statistics.median(answer["ms"] for answer, _ in answers), 2),
        "process_s": round(statistics.median(seconds for _, seconds in answers), 2),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, empty = folder / "kernels.ljb", str(folder / "empty")
        full = {"LIGER_JIT_CACHE": str(folder / "full")}
        start("cold", asked.arch, 1, **full)
        command = ["-m", "liger_jit", "cache"]
        export = ["export", "-o", str(bundle), "--arch", asked.arch, "--json"]
        made, seconds = run([*command, *export], **full)
        told = {key: made[key] for key in ("entries", "bytes", "entries_bytes")}
        print(json.dumps({"export": told, "process_s": round(seconds, 2)}), flush=True)
        into = ["import", str(bundle), "--json"]
        taken, seconds = run([*command, *into], LIGER_JIT_CACHE=str(folder / "imported"))
        told = {"written": taken["written"]}
        print(json.dumps({"import": told, "process_s": round(seconds, 2)}), flush=True)
        start("folder", asked.arch, asked.rounds, **full)
        as_layer = {"LIGER_JIT_CACHE": empty, "LIGER_JIT_CACHE_READONLY": str(bundle)}
        start("bundle", asked.arch, asked.rounds, **as_layer)


if __name__ == "__main__":
    main()
