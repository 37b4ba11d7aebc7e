"""Whole training steps, each provider in processes of its own, with empty and filled caches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from .fresh_run import RunFailed, fresh_run
from .models import BATCHES
from .peers import Absent, load
from .results import OURS, OURS_COMPILED, short

# Sequences, tokens in each, timed steps, and seconds between the first and these: variants compile
# in the background and are then timed.
SIZES = {"cuda": (4, 2048, 10, 4.0), "cpu": (2, 32, 4, 0.0)}
PROVIDERS = (OURS, OURS_COMPILED, "eager", "compile", "liger")


def train_steps(models: list[str], peers: list[str], device: str) -> Iterator[dict]:
    """One line for each model and provider; ours under torch.compile too where that is a peer."""
    batch, tokens, steps, warm_up_s = SIZES[device]
    ours = (OURS, OURS_COMPILED) if "compile" in peers else (OURS,)
    for model in models:
        for provider in (*ours, *peers):
            line = {"kind": "train_step", "model": model, "provider": provider}
            line |= {"dtype": "bf16", "batch": batch, "tokens": tokens}
            if device == "cuda":
                line |= BATCHES.get(model, {})
            try:
                job = {"device": device, "steps": steps, "warm_up_s": warm_up_s}
                line |= _both_runs({**line, **job})
            except Absent as reason:
                line["absent"] = str(reason)
            except RunFailed as trouble:
                line["failed"] = str(trouble)
            yield line


def _both_runs(job: dict) -> dict:
    provider, device = job["provider"], job["device"]
    if provider not in PROVIDERS:
        raise Absent(f"{provider} patches no models")
    if provider not in (OURS, OURS_COMPILED):
        load(provider, device)
    with tempfile.TemporaryDirectory(prefix="liger_jit_bench_") as folder:
        empty = fresh_run("training_run", job, folder)
        filled = fresh_run("training_run", {**job, "steps": 1, "warm_up_s": 0}, folder)
    step_s = empty["step_s"]
    figures = {
        "tokens_per_s": job["batch"] * job["tokens"] / step_s,
        "step_ms": step_s * 1e3,
        "peak_gib": empty["peak_gib"],
        "first_step_empty_cache_s": empty["first_step_s"],
        "first_step_filled_cache_s": filled["first_step_s"],
    }
    return {name: short(value) for name, value in figures.items()} | {"losses": empty["losses"]}
