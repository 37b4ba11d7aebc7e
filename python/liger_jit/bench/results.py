"""Lines of results: JSON, each complete in itself, with the machine and versions that made it."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__

OURS = "liger_jit"
OURS_COMPILED = f"{OURS}, compile"  # a patched model that is compiled
LEAST_MEMORY = f"{OURS}, memory min"  # where an op has that choice
# Of this file in a checkout; anywhere else there is no .git in it.
ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {"triton": "triton", "transformers": "transformers"}
PACKAGES |= {"liger": "liger-kernel", "quack": "quack-kernels", "trl": "trl"}


def machine(device: str, commit: str | None) -> dict[str, str]:
    """What made the lines: they are compared only within one device."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    about = {
        "device": name,
        "commit": commit or _commit(),
        "date": datetime.date.today().isoformat(),
        "liger_jit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for field, package in PACKAGES.items():
        try:
            about[field] = version(package)
        except PackageNotFoundError:
            continue
    return about


def _processor() -> str:
    named = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return named[0] if named else f"{platform.machine()} CPU"


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def subject_of(line: dict) -> str:
    """What was measured, for a person."""
    if line["kind"] == "train_step":
        return line["model"]
    if line["kind"] == "post_training":
        return f"{line['step']}, {line['model']}"
    return f"{line['op']}, {line['case']}"


def short(value):
    """Five digits say all that a time has, and JSON has no word for what is not finite."""
    if isinstance(value, float):
        value = float(f"{value:.5g}")
        return value if abs(value) < float("inf") else str(value)
    return value


def append(path: Path, lines: Iterable[dict]) -> None:
    with path.open("a") as file:
        for line in lines:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def read(path: Path) -> list[dict]:
    """Raises ValueError that names the file and the line."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as trouble:
            raise ValueError(f"{path}, line {number}, is no JSON: {trouble}") from None
    return lines
