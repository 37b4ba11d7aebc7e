"""The loop over cases and providers, which knows neither: it gets functions and makes lines."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from .call import Call, Reference
from .cases import SMALL, Case
from .clock import Clock
from .floors import floors_ms
from .peers import Absent, Provider, eager, providers_of
from .results import short

SHARES_OF_ROWS = (0.125, 0.25, 0.5, 1, 2)  # for memory against tokens


def measured(
    cases: Iterable[Case], peers: list[str], clock: Clock, bytes_per_ms: float
) -> Iterator[dict]:
    """One line for each case and provider; then the host's time, and memory by tokens, by op."""
    seen = set()
    for case in cases:
        providers = providers_of(case.op["name"], peers, clock.device, case.options)
        yield from _times(case, providers, clock, bytes_per_ms)
        if case.op["name"] not in seen:
            seen.add(case.op["name"])
            small = replace(case.at_most(*SMALL), name="small")
            yield from _host(small, providers, clock)
            if case.op["composite"] and clock.device == "cuda":
                for share in SHARES_OF_ROWS:
                    some = case.with_rows(max(1, int(share * case.rows)))
                    yield from memory(some, providers, clock)


def _times(case: Case, providers, clock: Clock, bytes_per_ms: float) -> Iterator[dict]:
    exact = getattr(eager, case.op["name"], None)
    reference = Reference(exact, case, clock.device) if exact else None

    def figures(call: Call, function: Callable) -> dict:
        # Beside each provider: a GPU that has become warm multiplies slower.
        forward, both = floors_ms(case, clock, bytes_per_ms)
        return {
            "floor_forward_ms": forward,
            "floor_forward_backward_ms": both,
            "forward_ms": clock.device_ms(call.forward),
            "forward_backward_ms": clock.device_ms(call.both),
            "forward_peak_mib": clock.peak_mib(call.forward),
            "forward_backward_peak_mib": clock.peak_mib(call.both),
            "kept_mib": clock.kept_mib(call.forward_of_both),
            "error": reference.error(function) if reference else None,
        }

    return _lines("op", case, providers, clock, figures)


def _host(case: Case, providers, clock: Clock) -> Iterator[dict]:
    def figures(call: Call, _) -> dict:
        return {
            "forward_us": _without_gradients(clock, call),
            "forward_backward_us": clock.host_us(call.both),
            "forward_backward_one_thread_us": _without_engine_thread(clock, call),
        }

    return _lines("host", case, providers, clock, figures)


def _without_gradients(clock: Clock, call: Call) -> float:
    # Outside the loop: to enter and leave the mode costs as much as a tenth of a call.
    with torch.no_grad():
        return clock.host_us(lambda: call.function(**call.values))


def _without_engine_thread(clock: Clock, call: Call) -> float:
    """The engine hands a GPU's graph to a thread of its own, once for a backward of any length: the
    bulk of a small call's time, and no part of what an op adds to a model's."""
    with torch.autograd.set_multithreading_enabled(False):
        return clock.host_us(call.both)


def memory(case: Case, providers, clock: Clock) -> Iterator[dict]:
    def figures(call: Call, _) -> dict:
        return {
            "forward_backward_peak_mib": clock.peak_mib(call.both),
            "gradients_mib": sum(one.nbytes for one in call.wanted) / 2**20,
        }

    return _lines("memory", case, providers, clock, figures)


def _lines(
    kind: str,
    case: Case,
    providers: list[Provider],
    clock: Clock,
    figures: Callable[[Call, Callable], dict],
) -> Iterator[dict]:
    """`figures` has the provider's function as a call of this case, and as it is."""
    names = case.differentiable()
    for provider in providers:
        line = {"kind": kind, **case.about, "provider": provider.name}
        try:
            values = case.values(clock.device)
            function = provider.find()
            found = figures(Call(case.told(function, values), values, names), function)
            line |= {name: short(figure) for name, figure in found.items()}
        except Absent as reason:
            line["absent"] = str(reason)
        except Exception as trouble:  # of whatever kind a peer raises: the others go on
            line["failed"] = _first_line(trouble)
        yield line
        # An exception keeps its frames, and so their tensors, until here.
        gc.collect()
        if clock.device == "cuda":
            torch.cuda.empty_cache()


def _first_line(trouble: Exception) -> str:
    text = str(trouble).strip().splitlines() or [""]
    return f"{type(trouble).__name__}: {text[0]}"[:300]
