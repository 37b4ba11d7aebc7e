"""Who is measured. A peer is a file of this folder whose functions bear the names of ops."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import functional, ops
from ..results import LEAST_MEMORY, OURS

PEERS = ("eager", "compile", "liger", "quack", "trl", "aten")
NEED_A_GPU = ("liger", "quack")


class Absent(Exception):
    """Why a provider has no figure."""


@dataclass(frozen=True)
class Provider:
    name: str
    find: Callable[[], Callable]  # raises Absent


def providers_of(op: str, peers: list[str], device: str, options: dict[str, Any]) -> list[Provider]:
    """Of an op: ours, ours with the least memory where it has that choice and the options of the
    case leave it open, then the peers named."""
    # An op without a function for people is called as the operator it is.
    ours = getattr(functional, op, None) or getattr(ops, op)
    found = [Provider(OURS, lambda: ours)]
    if "memory" in inspect.signature(ours).parameters and "memory" not in options:
        found.append(Provider(LEAST_MEMORY, lambda: partial(ours, memory="min")))
    return found + [Provider(peer, partial(find, peer, device, op)) for peer in peers]


def find(peer: str, device: str, op: str) -> Callable:
    function = getattr(load(peer, device), op, None)
    if function is None:
        raise Absent(f"bench/peers/{peer}.py has no function {op}")
    return function


def load(peer: str, device: str):
    if peer in NEED_A_GPU and device != "cuda":
        raise Absent(f"{peer} needs a GPU")
    try:
        return importlib.import_module(f"{__name__}.{peer}")
    except ImportError as missing:
        wanted = "trl" if peer == "trl" else "'liger_jit[bench]'"
        raise Absent(f"{missing}; to have it: pip install {wanted}") from None
