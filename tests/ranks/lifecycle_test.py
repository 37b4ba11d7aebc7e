"""Forks, signals and exits while kernels are compiled: no deadlock, no crash, no half entry.

Real processes with a C++ compiler that takes its time, so that each signal finds one at work.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

COMPILE_SECONDS = 1.5
PRELUDE = """
import os, signal, sys, time, threading
import torch, liger_jit
from liger_jit import functional

def norm(size):
    return functional.rms_norm(torch.ones(4, size), torch.ones(size))

def counters():
    return liger_jit.stats()["counters"]
"""


@pytest.fixture
def slow_compiler(tmp_path):
    """A real compiler that sleeps first. It leaves a mark in `started` when it is at work."""
    real = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if real is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "started").mkdir()
    script = tmp_path / "slow-c++"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --version|-dumpmachine) exec {real} "$1";; esac\n'
        f"touch {tmp_path}/started/$$\nsleep {COMPILE_SECONDS}\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    return script


class Program:
    def __init__(self, folder, compiler, code):
        variables = {**os.environ, "LIGER_JIT_CACHE": str(folder / "cache")}
        variables |= {"LIGER_JIT_AUTOTUNE": "off", "LIGER_JIT_CXX": str(compiler)}
        variables |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self.started = folder / "started"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_compiles(self, number=1):
        """Until so many compiles have begun."""
        end = time.monotonic() + 60
        while len(list(self.started.iterdir())) < number:
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)

    def result(self, timeout=60):
        """(exit code, output, errors); a deadlock is a timeout, which kills the process."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out, err


def assert_no_half_entry(folder):
    """Every entry verifies, and no temporary is left."""
    script = "from liger_jit.library import ask; print(all(f['ok'] for f in ask('_cache', 'ls')['files']))"
    variables = {**os.environ, "LIGER_JIT_CACHE": str(folder / "cache")}
    variables |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True", done.stdout + done.stderr
    assert not list((folder / "cache").rglob(".tmp-*"))


def test_ctrl_c_during_a_compile_interrupts_and_a_second_try_works(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        """
try:
    norm(24)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
print(norm(24).sum().item())
""",
    )
    program.wait_for_compiles()
    program.process.send_signal(signal.SIGINT)
    code, out, err = program.result()
    assert code == 0, err
    assert out.split() == ["interrupted", "96.0"]
    assert_no_half_entry(tmp_path)


def test_ctrl_c_during_a_wait_for_another_process(tmp_path, slow_compiler):
    """The second process waits for the first one's compile when it is interrupted."""
    first = Program(tmp_path, slow_compiler, "norm(24); print(counters()['compiled'])")
    first.wait_for_compiles()
    second = Program(
        tmp_path,
        slow_compiler,
        """
print("ready", flush=True)
try:
    norm(24)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
print(norm(24).sum().item())
""",
    )
    assert second.process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    second.process.send_signal(signal.SIGINT)
    code, out, err = second.result()
    assert code == 0, err
    assert out.split() == ["interrupted", "96.0"]
    assert first.result()[:2] == (0, "1\n")
    assert_no_half_entry(tmp_path)


def test_a_process_that_dies_by_a_signal_leaves_no_half_entry(tmp_path, slow_compiler):
    for number, kind in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
        program = Program(tmp_path, slow_compiler, "norm(24)")
        program.wait_for_compiles(number)
        program.process.send_signal(kind)
        assert program.result()[0] == -kind
    code, out, err = Program(tmp_path, slow_compiler, "print(norm(24).sum().item())").result()
    assert (code, out) == (0, "96.0\n"), err
    assert_no_half_entry(tmp_path)


PREFETCH = """
from liger_jit.warmup import meta_replay, prepare
def prefetch(*sizes):
    specs = []
    for size in sizes:
        x = torch.empty(4, size, device="meta", requires_grad=True)
        specs.append(("rms_norm", {"x": x, "weight": torch.empty(size, device="meta")}))
    return prepare(meta_replay(specs), "cpu")
"""


def test_the_interpreter_ends_well_with_compiles_in_flight(tmp_path, slow_compiler):
    program = Program(
        tmp_path, slow_compiler, PREFETCH + "print(prefetch(*range(16, 40)), flush=True)"
    )
    code, out, err = program.result()
    assert code == 0, err
    assert int(out) > 20
    assert err == ""
    # What was queued is dropped: 24 forward and backward kernels would take far longer.
    assert 1 <= len(list(program.started.iterdir())) <= 2 * (os.cpu_count() or 1)
    assert_no_half_entry(tmp_path)


def test_an_uncaught_ctrl_c_with_compiles_in_flight_ends_the_process(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        PREFETCH + "prefetch(*range(16, 40)); liger_jit.warmup([], progress=False)",
    )
    program.wait_for_compiles()
    program.process.send_signal(signal.SIGINT)
    code, _, err = program.result()
    assert code == -signal.SIGINT or code == 130 or "KeyboardInterrupt" in err
    assert_no_half_entry(tmp_path)


def test_a_child_forked_during_a_compile_works_and_so_does_its_parent(tmp_path, slow_compiler):
    """Before the first use, with a compile in flight, and after it."""
    program = Program(
        tmp_path,
        slow_compiler,
        """
def in_child(size):
    child = os.fork()
    if child == 0:
        good = norm(size).sum().item() == 4 * size
        os._exit(0 if good else 1)
    return child

children = [in_child(24)]
thread = threading.Thread(target=norm, args=(32,))
thread.start()
while len(os.listdir(os.environ["STARTED"])) < 2:
    time.sleep(0.02)
children.append(in_child(32))
children.append(in_child(40))
thread.join()
children.append(in_child(32))
print([os.waitpid(child, 0)[1] for child in children], norm(32).sum().item())
""".replace('os.environ["STARTED"]', repr(str(tmp_path / "started"))),
    )
    code, out, err = program.result()
    assert code == 0, err
    assert out == "[0, 0, 0, 0] 128.0\n"
    assert_no_half_entry(tmp_path)


def test_thirty_two_threads_that_ask_for_one_kernel_compile_it_once(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        """
sums = []
threads = [threading.Thread(target=lambda: sums.append(norm(24).sum().item())) for _ in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(sums), set(sums), counters()["compiled"])
""",
    )
    code, out, err = program.result()
    assert (code, out) == (0, "32 {96.0} 1\n"), err


def test_processes_of_one_node_share_the_work(tmp_path, slow_compiler):
    """Eight start together with nothing in the cache: each kernel is compiled once in all."""
    code = PREFETCH + (
        "from liger_jit.library import native\n"
        "units = prefetch(24, 32)\n"
        "native()._wait()\n"
        "print(units, counters()['compiled'], counters()['wait_expired'])"
    )
    programs = [Program(tmp_path, slow_compiler, code) for _ in range(8)]
    results = [program.result(120) for program in programs]
    assert all(done[0] == 0 for done in results), results
    units, compiled, expired = zip(*(map(int, out.split()) for _, out, _ in results))
    print("units", units[0], "compiled", sum(compiled), "expired", sum(expired))
    assert units[0] <= sum(compiled) <= units[0] + sum(expired)
    assert sum(compiled) < units[0] * 8
    assert_no_half_entry(tmp_path)
