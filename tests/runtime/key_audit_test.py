"""What must not be in a key is changed in a real process: everything is found in the cache again.

tests/runtime/key_test.cpp has the other half: each input of the key changed alone.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
import torch
if len(sys.argv) > 1:
    torch.__version__ = sys.argv[1]
import liger_jit
from liger_jit.library import NATIVE_FOLDER, ask
x = torch.ones(3, 40, requires_grad=True)
liger_jit.functional.rms_norm(x, torch.ones(40)).sum().backward()
liger_jit.functional.swiglu(x, x).sum().backward()
print(json.dumps({"counters": ask("_stats")["counters"], "native": str(NATIVE_FOLDER)}))
"""


def run(folder, package=ROOT / "python", arguments=(), **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIGER_JIT_")}
    kept.update(PYTHONPATH=str(package), LIGER_JIT_CACHE=str(folder), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, env={**kept, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "cache"
    assert run(folder)["counters"]["compiled"] > 2
    return folder


def assert_all_hits(answer):
    counters = answer["counters"]
    assert counters["compiled"] == 0 and counters["tuned"] == 0
    assert counters["hit_disk"] > 2


def test_an_install_and_a_cache_that_were_moved_hit(warm, tmp_path):
    install = tmp_path / "another place" / "python"
    shutil.copytree(ROOT / "python", install, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "elsewhere"
    shutil.copytree(warm, cache)
    answer = run(cache, package=install)
    assert answer["native"].startswith(str(install))
    assert_all_hits(answer)


def test_home_path_user_language_and_temporary_folder_do_not_matter(warm, tmp_path):
    answer = run(
        warm,
        HOME=str(tmp_path),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        USER="another",
        LOGNAME="another",
        LC_ALL="de_DE.UTF-8",
        LANG="de_DE.UTF-8",
        TZ="Asia/Tokyo",
        TMPDIR="/var/tmp",
        LIGER_JIT_LOG="1",
        LIGER_JIT_THREADS="3",
    )
    assert_all_hits(answer)


def test_another_torch_of_the_same_interface_hits(warm):
    import torch

    release = torch.__version__.split("+")[0].rsplit(".", 1)[0]
    assert_all_hits(run(warm, arguments=(f"{release}.99+elsewhere",)))


def test_another_build_of_the_compiler_misses(warm, tmp_path):
    compiler = shutil.which("c++")
    wrapper = tmp_path / "c++"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "c++ of another build" && exit\n'
        f'exec {compiler} "$@"\n'
    )
    wrapper.chmod(0o755)
    counters = run(warm, LIGER_JIT_CXX=str(wrapper))["counters"]
    assert counters["compiled"] > 2 and counters["hit_disk"] == 0
