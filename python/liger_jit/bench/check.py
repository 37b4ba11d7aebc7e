"""Compares lines with stored ones of the same device.

Compared are ratios within a run, which a busier machine moves less than it moves times.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..library import example_sizes
from .results import OURS, subject_of

ALLOWED = 1.10
TIMES = ("forward_ms", "forward_backward_ms", "step_ms")


@dataclass(frozen=True)
class Change:
    what: str
    ratio: str
    stored: float
    now: float

    @property
    def factor(self) -> float:
        return self.now / self.stored

    @property
    def worse(self) -> bool:
        return self.factor > ALLOWED


def changes(now: list[dict], stored: list[dict]) -> list[Change]:
    """Raises ValueError where nothing can be compared."""
    device = now[0]["device"]
    same = [line for line in stored if line["device"] == device]
    if not same:
        others = ", ".join(sorted({line["device"] for line in stored})) or "nothing"
        raise ValueError(f"the stored results have no lines of {device}; they are of {others}")
    before, after = _ratios(same), _ratios(now)
    found = [Change(*key, before[key], ratio) for key, ratio in after.items() if key in before]
    if not found:
        raise ValueError(f"the stored results of {device} have none of the cases measured now")
    return found


def _ratios(lines: list[dict]) -> dict[tuple[str, str], float]:
    """{(case and provider, which ratio): its value}; of a case that is stored twice, the later."""
    names = list(example_sizes())
    eager = {_subject(line, names): line for line in lines if line["provider"] == "eager"}
    ratios = {}
    for line in lines:
        if not line["provider"].startswith(OURS):
            continue
        subject = _subject(line, names)
        beside = eager.get(subject, {})
        for time in TIMES:
            name = time.removesuffix("_ms")
            for other, value in ("floor", line.get(f"floor_{time}")), ("eager", beside.get(time)):
                if value and time in line:
                    ratios[f"{subject}, {line['provider']}", f"{name} / {other}"] = (
                        line[time] / value
                    )
    return ratios


def _subject(line: dict, names: list[str]) -> str:
    if line["kind"] == "train_step":
        return f"{line['model']} {line['batch']} x {line['tokens']}"
    if line["kind"] == "post_training":
        return f"{subject_of(line)} {line['sequences']} x {line['prompt'] + line['completion']}"
    extents = " x ".join(str(line[name]) for name in names if name in line)
    return f"{line['op']} {line['case']} ({extents})"
