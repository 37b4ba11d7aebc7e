"""A machine without a C++ compiler runs from what another machine has compiled, on the CPU."""

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
import liger_jit
from liger_jit.library import ask
torch.manual_seed(1)
x = torch.randn(3, 40, requires_grad=True)
if "warm up" in sys.argv[1:]:
    liger_jit.warmup([("rms_norm", {"x": x, "weight": torch.ones(40)})])
y = liger_jit.functional.rms_norm(x, torch.ones(40))
if "swiglu" in sys.argv[1:]:
    y = liger_jit.functional.swiglu(y, x)
y.sum().backward()
print(json.dumps({"counters": ask("_stats")["counters"], "bits": [y.tolist(), x.grad.tolist()]}))
"""
OPS = ("rms_norm", "swiglu")


def variables(folder, **others):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIGER_JIT_")}
    kept.update(PYTHONPATH=str(ROOT / "python"), LIGER_JIT_CACHE=str(folder), OMP_NUM_THREADS="1")
    return {**kept, **others}


def run(folder, ops=OPS, **others):
    """The answer of a process that calls these ops, or the last lines of its error."""
    command = [sys.executable, "-c", RUN, *ops]
    done = subprocess.run(command, env=variables(folder, **others), capture_output=True, text=True)
    if done.returncode != 0:
        return done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}


def command(folder, *arguments, **others):
    return subprocess.run(
        [sys.executable, "-m", "liger_jit", *arguments],
        env=variables(folder, **others),
        capture_output=True,
        text=True,
    )


def another_build(folder, name):
    """A compiler whose version is another one."""
    wrapper = folder / name
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "{name}" && exit\n'
        f'exec {shutil.which("c++")} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A machine with a compiler: its folder, a bundle of it, and its bits."""
    folder = tmp_path_factory.mktemp("made")
    answer = run(folder / "cache", LIGER_JIT_AUTOTUNE="off")  # first candidates alone
    assert answer["counters"]["compiled"] > 2
    done = command(folder / "cache", "cache", "export", "-o", str(folder / "all.ljb"))
    assert done.returncode == 0, done.stderr
    return {"folder": folder / "cache", "bundle": folder / "all.ljb", "bits": answer["bits"]}


@pytest.fixture
def bare(tmp_path):
    """What a machine without a compiler sets, and the empty folder of its cache."""
    (tmp_path / "nothing").mkdir()
    return tmp_path / "cache", {"PATH": str(tmp_path / "nothing")}


@pytest.mark.parametrize("layer", ["bundle", "folder"])
@pytest.mark.parametrize("mode", ["readwrite", "offline", "readonly"])
def test_what_another_machine_has_compiled_serves(made, bare, layer, mode):
    folder, nothing = bare
    answer = run(
        folder, LIGER_JIT_CACHE_READONLY=str(made[layer]), LIGER_JIT_CACHE_MODE=mode, **nothing
    )
    assert isinstance(answer, dict), answer
    assert answer["counters"]["compiled"] == 0
    assert answer["counters"]["hit_readonly"] > 2
    assert answer["bits"] == made["bits"]


def test_tuning_and_warming_up_without_a_compiler_take_what_is_there(made, bare):
    folder, nothing = bare
    answer = run(
        folder,
        ops=(*OPS, "warm up"),
        LIGER_JIT_CACHE_READONLY=str(made["bundle"]),
        LIGER_JIT_AUTOTUNE="full",
        **nothing,
    )
    assert isinstance(answer, dict), answer
    assert answer["counters"]["compiled"] == answer["counters"]["tuned"] == 0
    assert answer["bits"] == made["bits"]


def test_the_doctor_says_what_serves(made, bare):
    folder, nothing = bare
    done = command(
        folder, "doctor", "--json", LIGER_JIT_CACHE_READONLY=str(made["bundle"]), **nothing
    )
    answer = json.loads(done.stdout)
    (found,) = [one for one in answer["findings"] if one["check"] == "compiler for cpu"]
    assert found["state"] == "warning"
    assert "kernels in the cache serve instead" in found["found"] and "host " in found["found"]
    assert "no C++ compiler" in found["advice"]
    assert done.returncode == 0, answer


@pytest.mark.parametrize("others", [True, False])
def test_what_no_machine_has_compiled_is_an_error_that_says_what_is_missing(bare, others):
    folder, nothing = bare
    if others:
        only = run(folder, ops=("rms_norm",))
        assert isinstance(only, dict)
    trouble = run(folder, ops=("swiglu",), **nothing)
    assert isinstance(trouble, str)
    assert "no C++ compiler: looked for c++, g++ and clang++ on PATH" in trouble
    done = command(folder, "doctor", "--json", **nothing)
    assert (done.returncode == 0) is others


def keys_used(answer):
    loads = [line for line in answer["log"].splitlines() if line.startswith("liger_jit load ")]
    return sorted(line.split("key=")[1] for line in loads)


def test_of_two_builds_the_choice_is_that_of_the_keys_alone(bare, tmp_path):
    """The one with more kernels where both have one, and each where the other has none."""
    more, fewer = tmp_path / "more", tmp_path / "fewer"
    run(more, ops=("rms_norm",), LIGER_JIT_CXX=another_build(tmp_path, "b"))
    run(more, ops=("swiglu",), LIGER_JIT_CXX=another_build(tmp_path, "b"))
    run(fewer, ops=("rms_norm",), LIGER_JIT_CXX=another_build(tmp_path, "a"))
    folder, nothing = bare
    used = []
    for order in ((more, fewer), (fewer, more)):
        layers = ":".join(map(str, order))
        answer = run(folder, LIGER_JIT_CACHE_READONLY=layers, LIGER_JIT_LOG="1", **nothing)
        assert isinstance(answer, dict), answer
        assert answer["counters"]["compiled"] == 0
        used.append(keys_used(answer))
    assert used[0] == used[1] and len(used[0]) > 2
