"""Reads the JUnit XML of GoogleTest and pytest, and writes the closing lines: the minutes of each
part, and the count."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Summary:
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skips: Counter = field(default_factory=Counter)  # reason -> number
    seconds: dict[str, float] = field(default_factory=dict)  # of each part, in order

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """Times what is done inside."""
        print(f"\n== {title}", flush=True)
        begin = time.monotonic()
        yield
        self.took(title, time.monotonic() - begin)

    def took(self, title: str, seconds: float) -> None:
        self.seconds[title] = seconds

    def add(self, name: str, ok: bool) -> None:
        """One check that has no XML of its own."""
        if ok:
            self.passed += 1
        else:
            self.failures.append(name)

    def add_xml(self, name: str, path: Path, exit_code: int) -> None:
        """All cases of a file. A runner that died, or ran nothing, is a failure."""
        before = self.passed, len(self.failures)
        if path.exists():
            for case in ElementTree.parse(path).iter("testcase"):
                self._add_case(case)
        if (self.passed, len(self.failures)) == before:
            self.failures.append(f"{name}: no test ran (exit code {exit_code})")
        elif exit_code != 0 and len(self.failures) == before[1]:
            self.failures.append(f"{name}: ended with exit code {exit_code}")

    def _add_case(self, case: ElementTree.Element) -> None:
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            self.failures.append(name)
        elif case.find("skipped") is not None:
            reason = case.find("skipped").get("message") or "no reason given"
            # GoogleTest puts the place on a line before the reason.
            lines = [line.strip() for line in reason.splitlines() if line.strip()]
            if len(lines) > 1 and lines[0].startswith("/"):
                lines = lines[1:]
            self.skips[lines[0]] += 1
        elif case.get("result", "completed") in ("completed", "suppressed"):
            self.passed += 1

    @property
    def exit_code(self) -> int:
        return 1 if self.failures or not self.passed else 0

    def show(self) -> None:
        print()
        for reason, number in self.skips.most_common():
            print(f"skipped {number}: {reason}")
        for name in self.failures:
            print(f"FAILED {name}")
        for title, seconds in [*self.seconds.items(), ("all", sum(self.seconds.values()))]:
            print(f"{seconds / 60:5.1f} minutes: {title}")
        skipped = sum(self.skips.values())
        print(f"{self.passed} passed, {len(self.failures)} failed, {skipped} skipped")
