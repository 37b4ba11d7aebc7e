"""Steps of post-training by one provider, in this process: prints one line of JSON.

Called by steps.py: peak memory and the time to the first step are those of a fresh process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module

import torch
import transformers
from torch import Tensor

from ..models import MODELS
from ..results import OURS
from ..timed_steps import timed_steps
from ..training_run import build, prepared
from .batch import Batch, generated, scored
from .settings import SETTINGS

CHUNKED_LOSSES = {OURS: "liger_jit.chunked_loss", "liger": "liger_kernel.chunked_loss"}


def train(job: dict) -> dict:
    device = job["device"]
    setting = SETTINGS[device][job["step"]]
    models = [build(MODELS[setting.model], device)]
    if setting.beside:
        models.append(build(MODELS[setting.beside], device).eval().requires_grad_(False))
    batch = generated(setting, MODELS[setting.model]["vocab_size"], device)
    if job["step"] == "grpo":
        batch = scored(batch, models[0])
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # Patching and compiling belong to the first step.
    begin = time.perf_counter()
    models = [prepared(job["provider"], model) for model in models]
    loss = loss_of(job["provider"], job["step"], batch, models)
    return timed_steps(models[0], loss, job, begin)


def loss_of(provider: str, step: str, batch: Batch, models: list) -> Callable[[], Tensor]:
    if provider == "trl":
        return getattr(import_module(".trl", __package__), step)(batch, *models)
    functions = import_module(f".{step}", __package__)
    if provider == "eager":
        return functions.eager(batch, *models)
    return functions.chunked(import_module(CHUNKED_LOSSES[provider]), batch, *models)


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(train(json.loads(sys.argv[1]))))
