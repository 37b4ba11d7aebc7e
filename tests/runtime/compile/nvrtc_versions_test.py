"""Two real releases of NVRTC with one cache: neither is served what the other has made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = "12.4.99", "13.5.37"
RUN = """
import json, sys
from liger_jit.library import ask
sizes = {"rows": 64, "size": 512}
kernels = ask("_show", "rms_norm", "bf16", sizes, sys.argv[1], True)["kernels"]
print(json.dumps({"counters": ask("_stats")["counters"], "kernels": len(kernels)}))
"""


@pytest.fixture(scope="module")
def compilers():
    """Paths by version, of libraries that are downloaded once for a tree."""
    found = {}
    for version in (OLD, NEW):
        command = [sys.executable, str(ROOT / "tools" / "nvrtc.py"), version]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"NVRTC {version} cannot be downloaded: {done.stderr[-300:]}")
        found[version] = done.stdout.strip()
    return found


def run(library, cache, arch):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIGER_JIT_")}
    kept |= {"PYTHONPATH": str(ROOT / "python"), "LIGER_JIT_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, arch],
        env={**kept, "LIGER_JIT_NVRTC": library},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["kernels"], answer["counters"], done.stderr


def entries(cache):
    """The bytes of each entry, by its name, which is the hash of its key."""
    return {path.name: path.read_bytes() for path in cache.rglob("*.ljk")}


def test_what_one_has_made_serves_itself_and_not_the_other(compilers, tmp_path):
    kernels, counters, told = run(compilers[OLD], tmp_path, "sm_80")
    assert counters["compiled"] == kernels > 0 and "does not know" not in told
    of_old = entries(tmp_path)
    _, counters, _ = run(compilers[NEW], tmp_path, "sm_80")
    assert counters["compiled"] == kernels and counters["hit_disk"] == 0
    both = entries(tmp_path)
    assert {name: both[name] for name in of_old} == of_old
    of_new = {name: data for name, data in both.items() if name not in of_old}
    assert len(of_new) == len(of_old) >= kernels
    assert all(b"nvrtc 12.4 " in data for data in of_old.values())
    assert all(b"nvrtc 13.5 " in data for data in of_new.values())
    for library in compilers.values():
        _, counters, _ = run(library, tmp_path, "sm_80")
        assert counters["compiled"] == 0 and counters["hit_disk"] == kernels


def test_a_gpu_that_one_does_not_know_gets_intermediate_code_of_it_and_machine_code_of_the_other(
    compilers, tmp_path
):
    kernels, _, told = run(compilers[OLD], tmp_path, "sm_100a")
    assert "NVRTC 12.4" in told and "does not know sm_100a" in told and "compute_90" in told
    of_old = entries(tmp_path)
    assert all(b".target sm_90" in data for data in of_old.values())
    _, counters, told = run(compilers[NEW], tmp_path, "sm_100a")
    assert counters["compiled"] == kernels and "does not know" not in told
    of_new = {name: data for name, data in entries(tmp_path).items() if name not in of_old}
    assert all(b"\x7fELF" in data for data in of_new.values())
