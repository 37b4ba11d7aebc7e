"""A run in a process of its own: its peak memory and its first step are those of nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CACHES = ("LIGER_JIT_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
PACKAGES = str(Path(__file__).resolve().parents[2])


class RunFailed(Exception):
    """A process ended before its figures."""


def fresh_run(module: str, job: dict, caches: str) -> dict:
    """Runs a module of this package with the job as JSON, and with all caches in a folder; the
    figures are the last line that it prints. Raises RunFailed with the last line of its errors."""
    path = os.pathsep.join(filter(None, [PACKAGES, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", f"{__package__}.{module}", json.dumps(job)]
    folders = {name: str(Path(caches) / name) for name in CACHES}
    variables = {**os.environ, **folders, "PYTHONPATH": path}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunFailed(said[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])
