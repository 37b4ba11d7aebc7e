"""Training steps of one model by one provider, in this process: prints one line of JSON.

Called by train_step.py: peak memory and the time to the first step are those of a fresh process.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from .models import MODELS
from .results import OURS

LEARNING_RATE = 1e-4


def prepared(provider: str, model: torch.nn.Module) -> torch.nn.Module:
    """Imports only what it uses: an import of a peer may change torch for all."""
    if provider == OURS:
        from ..patch import patch

        patch(model)
    if provider == "liger":
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model)
    return torch.compile(model) if provider == "compile" else model


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
    last = time.perf_counter()
    model = prepared(job["provider"], model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    losses, seconds = [], []
    warm = 1  # steps that no median counts
    while len(seconds) < warm + job["steps"]:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))  # this waits for a GPU
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(seconds) == 1:
            begin = last
        if last - begin < job["warm_up_s"]:
            warm = len(seconds)
    return {
        "step_s": statistics.median(seconds[warm:]),
        "first_step_s": seconds[0],
        "peak_gib": peak_gib(device),
        "losses": losses[: 1 + job["steps"]],
    }


def peak_gib(device: str) -> float:
    """What torch held on the GPU; on the CPU the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(train(json.loads(sys.argv[1]))))
