"""Which steps there are, and their sizes on a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    model: str  # that learns
    beside: str | None  # a frozen model whose forward pass belongs to the step
    sequences: int
    prompt: int  # tokens that no loss counts
    completion: int

    @property
    def tokens(self) -> int:
        return self.sequences * (self.prompt + self.completion)


SETTINGS = {
    "cuda": {
        "grpo": Setting("qwen3-0.6b", None, 8, 256, 2048),
        "dpo": Setting("llama-1b", "llama-1b", 8, 256, 768),
        "distillation": Setting("llama-1b", "llama-8b", 4, 256, 1024),
    },
    "cpu": {
        "grpo": Setting("tiny", None, 4, 8, 24),
        "dpo": Setting("tiny", "tiny", 4, 8, 24),
        "distillation": Setting("tiny", "tiny-wide", 2, 8, 24),
    },
}
STEPS = tuple(SETTINGS["cuda"])
