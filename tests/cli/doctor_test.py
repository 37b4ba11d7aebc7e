"""`liger-jit doctor`: what it finds on a sound machine, and each thing that can be broken."""

import importlib.metadata
import json
import socket

import pytest
import torch
from compilers import needs
from liger_jit import library, tried
from liger_jit.cli import doctor
from liger_jit.cli.doctor import file_system_of
from liger_jit.library import ask
from own_command import command
from redis_server import RedisServer, program


def findings(run, *, code):
    answered, out, err = run("doctor", "--json")
    assert answered == code, out + err
    answer = json.loads(out)
    assert answer["broken"] == bool(code)
    return {one["check"]: one for one in answer["findings"]}


def elsewhere(**variables):
    """The same in another process with these variables: (exit code, findings)."""
    done = command("doctor", "--json", **variables)
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
    assert {"torch", "transformers"} <= set(found)
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


def test_the_library_names_the_binding_and_those_that_are_there(run, monkeypatch, tmp_path):
    needs("cpu")
    for minor in ("2.11", "2.9", "2.13"):
        (tmp_path / f"libliger_jit_torch{minor}.so").touch()
    monkeypatch.setattr(library, "NATIVE_FOLDER", tmp_path)
    found = findings(run, code=0)["library"]
    assert str(library.BINDING) in found["found"]
    assert f"built with torch {torch.__version__.split('+')[0]}" in found["found"]
    assert "there are bindings for torch 2.9, 2.11, 2.13" in found["found"]


@pytest.mark.parametrize("package, minors", [("torch", "TORCH"), ("transformers", "TRANSFORMERS")])
def test_a_release_that_was_never_tried_is_a_warning(run, monkeypatch, package, minors):
    needs("cpu")
    running = importlib.metadata.version(package)
    monkeypatch.setattr(tried, minors, (library.minor_of(running), "9.9"))
    assert findings(run, code=0)[package]["state"] == "ok"
    monkeypatch.setattr(tried, minors, ("9.8", "9.9"))
    found = findings(run, code=0)[package]
    assert found["state"] == "warning"
    assert running.split("+")[0] in found["found"]
    assert "9.8, 9.9" in found["advice"]


def test_without_transformers_nothing_is_warned_of(run, monkeypatch):
    needs("cpu")

    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "version", absent)
    assert findings(run, code=0)["transformers"]["state"] == "ok"


def test_a_cache_that_is_off_is_a_warning(run):
    needs("cpu")
    code, found = elsewhere(LIGER_JIT_CACHE="off")
    assert code == 0
    assert found["cache folder"]["state"] == "warning"
    assert "LIGER_JIT_CACHE" in found["cache folder"]["advice"]


def test_modes_of_the_cache_are_no_faults(tmp_path):
    needs("cpu")
    code, found = elsewhere(LIGER_JIT_CACHE_MODE="off")
    assert (code, found["cache folder"]["state"]) == (0, "warning")
    assert "LIGER_JIT_CACHE_MODE" in found["cache folder"]["advice"]
    readonly = {"LIGER_JIT_CACHE": str(tmp_path / "cache"), "LIGER_JIT_CACHE_MODE": "readonly"}
    code, found = elsewhere(**readonly)
    assert (code, found["cache folder"]["state"]) == (0, "warning")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "v1").mkdir(parents=True, mode=0o700)
    before = (tmp_path / "cache").stat().st_mtime_ns
    code, found = elsewhere(**readonly)
    assert (code, found["cache folder"]["state"]) == (0, "ok")
    assert (tmp_path / "cache").stat().st_mtime_ns == before


@pytest.fixture
def server(tmp_path):
    if not program():
        pytest.skip("install redis-tools")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


def test_a_server_is_asked_for_what_a_run_would_ask(server):
    def remote(password=""):
        code, found = elsewhere(LIGER_JIT_REMOTE=server.url(password))
        assert "hunter2" not in json.dumps(found)
        return code, found["remote cache"]

    code, found = remote()
    assert (code, found["state"]) == (0, "ok")
    assert f"redis://127.0.0.1:{server.port}/test reads and writes" in found["found"]
    assert server.ask("DBSIZE") == b":0\r\n"

    server.ask("CONFIG", "SET", "maxmemory", "1")
    code, found = remote()
    assert (code, found["state"]) == (0, "warning")
    assert "OOM" in found["found"]

    server.ask("CONFIG", "SET", "maxmemory", "0")
    server.ask("CONFIG", "SET", "requirepass", "another")
    for password in ("", "hunter2"):
        code, found = remote(password)
        assert (code, found["state"]) == (1, "broken")
        assert "password" in found["advice"]

    server.stop()
    code, found = remote()
    assert (code, found["state"]) == (1, "broken")
    assert "refused" in found["found"]


def test_a_server_that_answers_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, found = elsewhere(LIGER_JIT_REMOTE=f"redis://127.0.0.1:{silent.getsockname()[1]}")
    assert (code, found["remote cache"]["state"]) == (1, "broken")


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
