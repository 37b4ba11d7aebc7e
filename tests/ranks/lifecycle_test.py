"""Forks, signals and exits while kernels are compiled: no deadlock, no crash, no half entry.

Real processes with a C++ compiler that takes its time, so that each signal finds one at work.
"""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

COMPILE_SECONDS = 0.8
PRELUDE = """
import os, signal, sys, time, threading
import torch, liger_jit
from liger_jit import functional

# What started the tests in the background may have had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def norm(size):
    "Whether the norm of ones is ones."
    y = functional.rms_norm(torch.ones(4, size), torch.ones(size))
    return torch.allclose(y, torch.ones(4, size), atol=1e-4)

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
    def __init__(self, folder, compiler, code, autotune="off"):
        variables = {**os.environ, "LIGER_JIT_CACHE": str(folder / "cache")}
        variables |= {"LIGER_JIT_AUTOTUNE": autotune, "LIGER_JIT_CXX": str(compiler)}
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
    """No temporary is left, and each entry is as long as its header says (cache/FORMAT.md)."""
    assert not list((folder / "cache").rglob(".tmp-*"))
    for path in (folder / "cache").rglob("*.lj[kt]"):
        data = path.read_bytes()
        magic, _, header, *parts = struct.unpack_from("<8sIIQQQ", data)
        assert magic == b"LIGERJIT" and header + sum(parts) == len(data), path


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
print(norm(24))
""",
    )
    program.wait_for_compiles()
    program.process.send_signal(signal.SIGINT)
    code, out, err = program.result()
    assert code == 0, err
    assert out.split() == ["interrupted", "True"]
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
print(norm(24))
""",
    )
    assert second.process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    second.process.send_signal(signal.SIGINT)
    code, out, err = second.result()
    assert code == 0, err
    assert out.split() == ["interrupted", "True"]
    assert first.result()[:2] == (0, "1\n")
    assert_no_half_entry(tmp_path)


def test_a_process_that_dies_by_a_signal_leaves_no_half_entry(tmp_path, slow_compiler):
    for number, kind in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
        program = Program(tmp_path, slow_compiler, "norm(24)")
        program.wait_for_compiles(number)
        program.process.send_signal(kind)
        assert program.result()[0] == -kind
    code, out, err = Program(tmp_path, slow_compiler, "print(norm(24))").result()
    assert (code, out) == (0, "True\n"), err
    assert_no_half_entry(tmp_path)


PREFETCH = """
from liger_jit.warmup import meta_replay, prepare
def compile_in_background(*sizes):
    specs = []
    for size in sizes:
        x = torch.empty(4, size, device="meta", requires_grad=True)
        specs.append(("rms_norm", {"x": x, "weight": torch.empty(size, device="meta")}))
    return prepare(meta_replay(specs), "cpu")
"""


def test_the_interpreter_ends_well_with_compiles_in_flight(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        PREFETCH + "print(compile_in_background(*range(16, 40)), flush=True)",
    )
    units = int(program.process.stdout.readline())
    begun = len(list(program.started.iterdir()))
    code, _, err = program.result()
    assert (code, err) == (0, "")
    ended = len(list(program.started.iterdir()))
    # What runs is waited for, what is queued is dropped.
    assert 1 <= ended < units
    assert ended - begun <= 2 * min(8, os.cpu_count() or 1)
    assert_no_half_entry(tmp_path)


def test_an_uncaught_ctrl_c_with_compiles_in_flight_ends_the_process(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        PREFETCH + "compile_in_background(*range(16, 40)); liger_jit.warmup([], progress=False)",
    )
    program.wait_for_compiles()
    program.process.send_signal(signal.SIGINT)
    code, _, err = program.result()
    assert code == -signal.SIGINT or code == 130 or "KeyboardInterrupt" in err
    assert_no_half_entry(tmp_path)


@pytest.mark.parametrize("autotune", ["off", "first-run"])
def test_a_child_forked_during_a_compile_works_and_so_does_its_parent(
    tmp_path, slow_compiler, autotune
):
    """Before the first use, with a compile or a search in flight, and after it."""
    program = Program(
        tmp_path,
        slow_compiler,
        """
def in_child(size):
    child = os.fork()
    if child == 0:
        good = norm(size)
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
print([os.waitpid(child, 0)[1] for child in children], norm(32))
""".replace('os.environ["STARTED"]', repr(str(tmp_path / "started"))),
        autotune,
    )
    code, out, err = program.result(120)
    assert code == 0, err
    assert out == "[0, 0, 0, 0] True\n"
    assert_no_half_entry(tmp_path)


def test_thirty_two_threads_that_ask_for_one_kernel_compile_it_once(tmp_path, slow_compiler):
    program = Program(
        tmp_path,
        slow_compiler,
        """
sums = []
threads = [threading.Thread(target=lambda: sums.append(norm(24))) for _ in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(sums), set(sums), counters()["compiled"])
""",
    )
    code, out, err = program.result()
    assert (code, out) == (0, "32 {True} 1\n"), err


def test_processes_of_one_node_share_the_work(tmp_path, slow_compiler):
    """Eight start together with nothing in the cache: each kernel is compiled once in all."""
    program = Program(
        tmp_path,
        slow_compiler,
        PREFETCH
        + """
from liger_jit.library import native
read_end, write_end = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        units = compile_in_background(24, 32)
        failures = native()._wait()
        told = counters()
        line = f"{units} {told['compiled']} {told['wait_expired']} {len(failures)}\\n"
        os.write(write_end, line.encode())
        os._exit(0)
for _ in range(8):
    os.wait()
print(os.read(read_end, 4096).decode())
""",
    )
    code, out, err = program.result(120)
    assert code == 0, err
    rows = [[int(word) for word in line.split()] for line in out.splitlines() if line]
    assert len(rows) == 8
    units = rows[0][0]
    _, compiled, expired, failed = map(sum, zip(*rows))
    print("units", units, "compiled", compiled, "expired", expired)
    assert failed == 0
    assert units <= compiled <= units + expired
    assert compiled < units * 8
    assert_no_half_entry(tmp_path)
