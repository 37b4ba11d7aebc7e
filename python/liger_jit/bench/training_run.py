"""Training steps of one model by one provider, in this process: prints one line of JSON.

Called by train_step.py: peak memory and the time to the first step are those of a fresh process.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from .models import MODELS
from .results import OURS, OURS_COMPILED
from .timed_steps import timed_steps


def prepared(provider: str, model: torch.nn.Module) -> torch.nn.Module:
    """Imports only what it uses: an import of a peer may change torch for all."""
    if provider in (OURS, OURS_COMPILED):
        from ..patch import patch

        patch(model)
    if provider == "liger":
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model)
    return torch.compile(model) if provider in ("compile", OURS_COMPILED) else model


def build(settings: dict, device: str) -> torch.nn.Module:
    config = AutoConfig.for_model(**settings)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.train()


def train(job: dict) -> dict:
    device = job["device"]
    settings = MODELS[job["model"]]
    model = build(settings, device)
    shape = (job["batch"], job["tokens"])
    tokens = torch.randint(settings["vocab_size"], shape, device=device)
    if device == "cuda":
        torch.cuda.synchronize()
    # Patching and compiling belong to the first step.
    begin = time.perf_counter()
    if job.get("checkpointing"):
        model.gradient_checkpointing_enable()
    model = prepared(job["provider"], model)

    def loss():
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss

    return timed_steps(model, loss, job, begin)


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(train(json.loads(sys.argv[1]))))
