"""A model known by its config.json alone: enough to learn which kernels its training needs."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def model_without_weights(config: str | os.PathLike, dtype: torch.dtype) -> torch.nn.Module:
    """The causal language model of a config.json, or of the folder that has it, on the meta device.

    Raises FileNotFoundError, ValueError when it is no config of a causal language model, and
    RuntimeError when transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as missing:
        raise RuntimeError("this needs transformers: pip install transformers") from missing
    if not Path(config).exists():
        raise FileNotFoundError(f"there is no {config}")
    try:
        settings = AutoConfig.from_pretrained(config, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, dtype=dtype).train()
    except (OSError, ValueError) as trouble:
        raise ValueError(f"{config} is no config of a causal language model: {trouble}") from None
