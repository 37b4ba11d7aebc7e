"""`liger-jit doctor`: what it finds on a sound machine, and each thing that can be broken."""

import json
import os
import socket
import subprocess
import sys

import pytest
from cli_test import needs
from liger_jit.cli.doctor import file_system_of
from liger_jit.library import ask


def findings(run, *, code):
    answered, out, err = run("doctor", "--json")
    assert answered == code, out + err
    answer = json.loads(out)
    assert answer["broken"] == bool(code)
    return {one["check"]: one for one in answer["findings"]}


def elsewhere(**variables):
    """The same in another process with these variables: (exit code, findings)."""
    done = subprocess.run(
        [sys.executable, "-m", "liger_jit", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, {one["check"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("LIGER_JIT_REMOTE", raising=False)


def test_a_sound_machine_is_0_and_all_is_looked_at(run):
    needs("cpu")
    found = findings(run, code=0)
    folder = ask("_environment")["cache"]["folder"]
    assert folder in found["cache folder"]["found"]
    assert found["free space"]["found"].split()[1] in ("MiB", "GiB")
    assert found["file system of the cache"]["found"] == file_system_of(folder)
    assert {"GPUs", "library", "system", "cache entries", "compiler for cpu"} <= set(found)
    assert "remote cache" not in found
    code, out, _ = run("doctor")
    assert code == 0
    assert folder in out


def test_what_is_broken_is_1_and_has_advice(tmp_path):
    damaged, shared = tmp_path / "damaged.ljb", tmp_path / "shared"
    damaged.write_bytes(b"LIGERBDL and no more")
    shared.mkdir()
    shared.chmod(0o777)
    code, found = elsewhere(
        LIGER_JIT_CACHE=str(shared),
        LIGER_JIT_CXX="/nonexistent/c++",
        LIGER_JIT_CACHE_READONLY=f"{damaged}:{tmp_path / 'absent'}",
    )
    assert code == 1
    assert found["cache folder"]["state"] == "broken"
    assert f"chmod go-w '{shared}'" in found["cache folder"]["advice"]
    assert found["compiler for cpu"]["state"] == "broken"
    assert "/nonexistent/c++" in found["compiler for cpu"]["advice"]
    assert found["read-only bundle"]["state"] == "broken"
    assert "header is cut off" in found["read-only bundle"]["found"]
    assert found["read-only folder"]["state"] == "warning"


def test_a_cache_that_is_off_is_a_warning(run):
    needs("cpu")
    code, found = elsewhere(LIGER_JIT_CACHE="off")
    assert code == 0
    assert found["cache folder"]["state"] == "warning"
    assert "LIGER_JIT_CACHE" in found["cache folder"]["advice"]


def test_a_server_that_listens_is_reached_and_one_that_went_is_not(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("LIGER_JIT_REMOTE", f"redis://user:secret@127.0.0.1:{port}/0")
        found = findings(run, code=0)["remote cache"]
        assert (found["state"], f"127.0.0.1:{port}" in found["found"]) == ("ok", True)
    found = findings(run, code=1)["remote cache"]
    assert "refused" in found["advice"]
    assert "secret" not in json.dumps(found)
    monkeypatch.setenv("LIGER_JIT_REMOTE", f"127.0.0.1:{port}")
    assert "not reached" in findings(run, code=1)["remote cache"]["found"]
    monkeypatch.setenv("LIGER_JIT_REMOTE", "redis://:notaport")
    assert "redis://host:port" in findings(run, code=1)["remote cache"]["advice"]


def test_damaged_entries_are_named_with_the_command_that_mends_them(run, tmp_path):
    folder = tmp_path / "v1" / "a" / "00"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 32}.ljk").write_bytes(b"damaged")
    code, found = elsewhere(LIGER_JIT_CACHE=str(tmp_path))
    assert found["cache entries"]["state"] == "warning"
    assert "verify --repair" in found["cache entries"]["advice"]


def test_the_file_system_is_that_of_the_nearest_mount():
    assert file_system_of("/proc/self") == "proc"
    assert file_system_of("/dev/shm") == "tmpfs"
    assert file_system_of("/nowhere/at/all") == file_system_of("/")
