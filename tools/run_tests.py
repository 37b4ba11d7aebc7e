"""`make test`: the form of the code, the C++ tests, the Python tests, the core tests with the
oldest torch and transformers, and one closing line.

With a GPU the same tests also run there. Arguments go to pytest, and then the core tests stay out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from core_tests import core_command
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


def run(title: str, command: list, variables: dict[str, str]) -> int:
    print(f"\n== {title}", flush=True)
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=variables).returncode


def main() -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    cpp, python, oldest = (RESULTS / f"{name}.xml" for name in ("cpp", "python", "oldest"))
    for old in (cpp, python, oldest):
        old.unlink(missing_ok=True)
    summary = Summary()
    with tempfile.TemporaryDirectory(prefix="liger_jit_tests_") as folder:
        variables = environment(folder)
        check = [sys.executable, "tools/format.py", "--check"]
        summary.add("format", run("form of the code", check, variables) == 0)
        tests = ["build/native/liger_tests", f"--gtest_output=xml:{cpp}", "--gtest_brief=1"]
        summary.add_xml("C++ tests", cpp, run("C++ tests", tests, variables | packaged()))
        pytest = [sys.executable, "-m", "pytest", "-q", f"--junitxml={python}", *sys.argv[1:]]
        summary.add_xml("Python tests", python, run("Python tests", pytest, variables))
        if not sys.argv[1:]:
            core = core_command(OLDEST, oldest)
            title = "core tests with the oldest torch and transformers"
            summary.add_xml(title, oldest, run(title, core, variables | {"OMP_NUM_THREADS": "1"}))
    summary.show()
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
