"""`make nvrtc-table`: the kernels of every op with an old and a new NVRTC, for all GPUs.

Candidates of calls drawn at random are compiled by tests/engine/candidates_test.cpp; the counts
become the table in docs/compatibility.md. What one compiler did for one GPU is kept in
build/nvrtc/results under the hash of what it was made from, so a run that was stopped goes on.
Arguments: versions.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nvrtc
from run_tests import environment, packaged

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "build" / "native" / "liger_tests"
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- made by make nvrtc-table -->\n", "<!-- end -->\n"
VERSIONS = ("12.4.99", "13.5.37")  # the first of CUDA 12.4 and the newest
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_120a")
CANDIDATES = "3"  # of each kernel
NO_OPS = {"name", "value_param", "file", "line", "status", "result", "timestamp", "time"}
NO_OPS |= {"classname", "failures", "made_for"}


def sources() -> str:
    """A hash of all that decides what is compiled and how."""
    folders = ("templates", "ops", "engine", "runtime/compile")
    files = [path for name in folders for path in (ROOT / name).rglob("*.*")]
    digest = hashlib.sha256(CANDIDATES.encode())
    for path in sorted([*files, ROOT / "tests/engine/candidates_test.cpp"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def tried(version: str, target: str) -> dict:
    """The test's record, from an earlier run of the same sources if there was one."""
    kept = nvrtc.FOLDER / "results" / f"{version}-{target}-{sources()}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = kept.with_suffix(".new")
        with tempfile.TemporaryDirectory() as cache:
            variables = environment(cache)
            variables |= packaged() | {"LIGER_JIT_NVRTC": str(nvrtc.library(version))}
            variables |= {"TORTURE_TARGETS": target, "TORTURE_CANDIDATES": CANDIDATES}
            command = [str(TESTS), "--gtest_filter=*CandidatesTest*", "--gtest_brief=1"]
            subprocess.run([*command, f"--gtest_output=json:{made}"], env=variables, cwd=ROOT)
        os.replace(made, kept)
    ((record,),) = [suite["testsuite"] for suite in json.loads(kept.read_text())["testsuites"]]
    if record["result"] != "COMPLETED":
        raise SystemExit(f"NVRTC {version} was not tried for {target}: {record['result']}")
    return record


def counts(record: dict) -> dict[str, list[int]]:
    """Of each op: kernels, candidates that were tried, those that failed."""
    return {op: [*map(int, told.split())] for op, told in record.items() if op not in NO_OPS}


def table(version: str, records: dict[str, dict]) -> list[str]:
    by_target = {target: counts(record) for target, record in records.items()}
    heads = [
        target + (f" as {record['made_for']}" if record["made_for"] else "")
        for target, record in records.items()
    ]
    rule = "|---" * (len(heads) + 2) + "|"
    lines = [f"| NVRTC {version} | kernels | {' | '.join(heads)} |", rule]
    for op in sorted({op for ops in by_target.values() for op in ops}):
        of_op = [ops.get(op, [0, 0, 0]) for ops in by_target.values()]
        cells = [f"{all_of - failed} of {all_of}" for _, all_of, failed in of_op]
        kernels = max(count for count, _, _ in of_op)
        lines.append(f"| `{op}` | {kernels} | {' | '.join(cells)} |")
    sums = [[sum(column) for column in list(zip(*ops.values()))[1:]] for ops in by_target.values()]
    cells = [f"{all_of - failed} of {all_of}" for all_of, failed in sums]
    return [*lines, f"| all | | {' | '.join(cells)} |", ""]


def main() -> int:
    lines, failed = [f"Run on {datetime.date.today():%d %B %Y}.", ""], False
    for version in sys.argv[1:] or VERSIONS:
        records = {}
        for target in TARGETS:
            print(f"NVRTC {version}, {target}", flush=True)
            records[target] = tried(version, target)
            failed |= any(count[2] for count in counts(records[target]).values())
        lines += table(version, records)
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + after)
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
