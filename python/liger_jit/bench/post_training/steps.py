"""One line for each step of post-training and provider."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict

from ..fresh_run import RunFailed, fresh_run
from ..peers import Absent, load
from ..results import OURS, short
from .settings import SETTINGS, Setting

PROVIDERS = (OURS, "eager", "liger", "trl")
# Timed steps, and seconds between the first and these: variants compile in the background and are
# then timed.
TIMED = {"cuda": (8, 3.0), "cpu": (3, 0.0)}


def post_training_steps(steps: list[str], peers: list[str], device: str) -> Iterator[dict]:
    timed, warm_up_s = TIMED[device]
    for step in steps:
        setting = SETTINGS[device][step]
        for provider in (OURS, *peers):
            line = {"kind": "post_training", "step": step, "provider": provider, "dtype": "bf16"}
            line |= {name: value for name, value in asdict(setting).items() if value is not None}
            job = {"device": device, "steps": timed, "warm_up_s": warm_up_s}
            try:
                line |= _figures({**line, **job}, setting)
            except Absent as reason:
                line["absent"] = str(reason)
            except RunFailed as trouble:
                line["failed"] = str(trouble)
            yield line


def _figures(job: dict, setting: Setting) -> dict:
    provider = job["provider"]
    if provider not in PROVIDERS:
        raise Absent(f"{provider} has no loss of these steps")
    if provider != OURS:
        load(provider, job["device"])
    with tempfile.TemporaryDirectory(prefix="liger_jit_bench_") as folder:
        found = fresh_run("post_training.run", job, folder)
    step_s = found["step_s"]
    figures = {
        "tokens_per_s": setting.tokens / step_s,
        "step_ms": step_s * 1e3,
        "peak_gib": found["peak_gib"],
        "first_step_s": found["first_step_s"],
    }
    return {name: short(value) for name, value in figures.items()} | {"losses": found["losses"]}
