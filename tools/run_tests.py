"""`make test`: the form of the code, the C++ tests, the Python tests, the core tests with the
oldest torch and transformers, the minutes of each and one closing line.

With a GPU the same tests also run there. Arguments go to pytest, and then the core tests stay out.
`make test-quick` is the same with `--quick` first: of the Python tests those of QUICK.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from core_tests import MOST_WORKERS, QUICK, core_command, cores
from test_summary import Summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "tests"
OLDEST = ROOT / "build" / "oldest" / "bin" / "python"


def environment(folder: str) -> dict[str, str]:
    """This process's, without the user's own settings and cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIGER_JIT_")}
    kept["LIGER_JIT_CACHE"] = folder
    return kept


def packaged() -> dict[str, str]:
    """NVIDIA's compilers: the C++ tests do not load torch, beside which the library finds them."""
    names = {"LIGER_JIT_NVRTC": "libnvrtc.so.1[23]", "TORTURE_NVJITLINK": "libnvJitLink.so.1[3-9]"}
    spec = find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    found = {}
    for variable, name in names.items():
        paths = sorted(path for folder in folders for path in folder.rglob(name))
        if paths:
            found[variable] = str(paths[0])
    return found


def run(commands: list[list], variables: list[dict[str, str]]) -> int:
    """All of them side by side; the first exit code that is not 0, if there is one."""
    started = [
        subprocess.Popen([str(part) for part in command], cwd=ROOT, env=own)
        for command, own in zip(commands, variables)
    ]
    return next(filter(None, [process.wait() for process in started]), 0)


def check_form(summary: Summary, variables: dict[str, str]) -> None:
    check = [sys.executable, "tools/format.py", "--check"]
    summary.add("format", run([check], [variables]) == 0)


def run_cpp(summary: Summary, variables: dict[str, str]) -> None:
    """In as many processes as there are cores: many of these tests wait for time to pass."""
    shards = min(MOST_WORKERS, cores())
    commands, own = [], []
    for shard in range(shards):
        results = fresh(f"cpp{shard}")
        commands.append(
            ["build/native/liger_tests", f"--gtest_output=xml:{results}", "--gtest_brief=1"]
        )
        of_shard = {"GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(shard)}
        own.append(variables | packaged() | of_shard)
    code = run(commands, own)
    for shard in range(shards):
        summary.add_xml(f"C++ tests, shard {shard}", RESULTS / f"cpp{shard}.xml", code)


def run_python(summary: Summary, variables: dict[str, str], options: list[str]) -> None:
    """A file's tests stay in one worker, in order: they may share what is slow to make. Each has a
    pool of threads, as users have; one that waits leaves its core to the other workers."""
    results = fresh("python")
    variables = variables | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile"]
    code = run([[*command, f"--junitxml={results}", *options]], [variables])
    summary.add_xml("Python tests", results, code)


def run_oldest(summary: Summary, variables: dict[str, str]) -> None:
    results = fresh("oldest")
    code = run([core_command(OLDEST, results)], [variables | {"OMP_NUM_THREADS": "1"}])
    summary.add_xml("core tests with the oldest torch and transformers", results, code)


def fresh(name: str) -> Path:
    results = RESULTS / f"{name}.xml"
    results.unlink(missing_ok=True)
    return results


def minutes_before(summary: Summary) -> None:
    """What make did first, and before that what continuous integration did."""
    moments = [os.environ.get(name) for name in ("CI_BEGAN", "TESTS_BEGAN")]
    ends = [float(moment) if moment else None for moment in moments] + [time.time()]
    if ends[0] and ends[1]:
        summary.took("demo with its installs and build", ends[1] - ends[0])
    if ends[1]:
        summary.took("installs and build of the tests", ends[2] - ends[1])


def main() -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    quick = sys.argv[1:2] == ["--quick"]
    options = sys.argv[2:] if quick else sys.argv[1:]
    summary = Summary()
    minutes_before(summary)
    with tempfile.TemporaryDirectory(prefix="liger_jit_tests_") as folder:
        # The kernels of the newest torch are those of the oldest: no key has torch in it.
        variables = environment(folder) | {"TESTS_CACHE": folder}
        with summary.part("form of the code"):
            check_form(summary, variables)
        with summary.part("C++ tests"):
            run_cpp(summary, variables)
        with summary.part("Python tests"):
            run_python(summary, variables, [*options, *(QUICK if quick else ())])
        if not sys.argv[1:]:
            with summary.part("core tests with the oldest torch and transformers"):
                run_oldest(summary, variables)
    summary.show()
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
