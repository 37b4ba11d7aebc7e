"""Peak memory of each linear loss as tokens grow: the cases, which the registry has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .cases import Case, declared
from .clock import Clock
from .floors import linear_layers
from .measure import memory
from .peers import providers_of
from .results import LEAST_MEMORY, OURS

KIND = "memory_by_tokens"
# What a training step may hold above its gradients, whatever the tokens.
BOUND_MIB = 640

LENGTH = 1024  # tokens of a sequence, where a loss has sequences
TOKENS = {"cuda": [LENGTH * count for count in (8, 16, 32, 64, 128)], "cpu": [2048, 4096, 8192]}
LAYER = {"cuda": {"inner": 2048, "size": 128256}, "cpu": {"inner": 64, "size": 1024}}


def memory_by_tokens(ops: list[str], peers: list[str], clock: Clock) -> Iterator[dict]:
    """One line for each loss, number of tokens and provider. Raises ValueError for an op named that
    is no linear loss."""
    for loss in linear_losses(ops):
        found = providers_of(loss.op["name"], peers, clock.device, loss.options)
        providers = [one for one in found if one.name in (OURS, LEAST_MEMORY, *peers)]
        for tokens in TOKENS[clock.device]:
            case = _with_tokens(loss, tokens, clock.device)
            for line in memory(case, providers, clock):
                yield {**line, "kind": KIND}


def linear_losses(ops: list[str]) -> list[Case]:
    first = {}
    for case in declared(ops):
        first.setdefault(case.op["name"], case)
    found = {name: case for name, case in first.items() if linear_layers(case.values("meta"))}
    for name in ops:
        if name not in found:
            raise ValueError(f"{name!r} is no linear loss; allowed: {', '.join(found) or 'none'}")
    return list(found.values())


def _with_tokens(loss: Case, tokens: int, device: str) -> Case:
    layer = LAYER[device]
    paired = "sequences" in loss.sizes
    count = {"rows": LENGTH, "sequences": tokens // LENGTH} if paired else {"rows": tokens}
    name = f"hidden {layer['inner']}, vocabulary {layer['size']}"
    return replace(loss, name=name, sizes=loss.sizes | layer | count)
