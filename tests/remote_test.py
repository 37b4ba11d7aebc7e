"""A cache shared through a real Redis server: found from elsewhere, and harmless when it is unwell.

What one key may cost is measured in tests/cache/remote_test.cpp; here whole processes run.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from fresh_process import run, started
from redis_server import RedisServer, program

pytestmark = pytest.mark.skipif(not program(), reason="install redis-tools")

WIDTHS = (16, 24, 40)
PASSWORD = "hunter2"
ATTEMPTS = 20


def steps(connection, widths=WIDTHS, stop_before=None):
    """Calls an op for each width; stops where it is told, until it gets a word."""
    import liger_jit
    import torch

    torch.manual_seed(20)
    digest = hashlib.sha256()
    for width in widths:
        if width == stop_before:
            connection.send("here")
            connection.recv()
        x = torch.randn(3, width, requires_grad=True)
        y = liger_jit.functional.rms_norm(x, torch.ones(width))
        y.sum().backward()
        digest.update(y.detach().numpy().tobytes() + x.grad.numpy().tobytes())
    return {**liger_jit.stats(), "bits": digest.hexdigest()}


def environment(folder, url, autotune="off", **variables):
    return {
        "LIGER_JIT_CACHE": str(folder),
        "LIGER_JIT_REMOTE": url,
        "LIGER_JIT_AUTOTUNE": autotune,
        "OMP_NUM_THREADS": "1",
        **variables,
    }


def unhurried(attempt, is_complete=lambda: True):
    """`attempt()`, a run and its stderr, until the server was in time for each key it was asked
    for and, which `is_complete()` tells, for each it was sent: on a busy machine 0.2 s may pass
    without anybody's fault, and what is sent late is dropped."""
    for _ in range(ATTEMPTS):
        result, stderr = attempt()
        if result["counters"]["remote_errors"] == 0 and is_complete():
            return result, stderr
    raise AssertionError(f"the server was too slow in each of {ATTEMPTS} runs")


def filled(server, folder, attempt):
    """A run that left the server all that it left in its folder."""

    def afresh():
        server.ask("FLUSHALL")
        return attempt(emptied(folder))

    def is_complete():
        return server.ask("DBSIZE") == b":%d\r\n" % len(entries(folder))

    return unhurried(afresh, is_complete)[0]


def value_of(server, name):
    return server.ask("GET", name).split(b"\r\n", 1)[1][:-2]


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def entries(folder):
    return sorted(path.name for path in Path(folder).glob("v1/[at]/*/*"))


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same steps without a server."""
    return run(steps, environment(tmp_path_factory.mktemp("alone"), ""))[0]


def test_another_machine_compiles_and_tunes_nothing(server, tmp_path):
    def attempt(folder, **variables):
        settings = environment(emptied(folder), server.url(), "first-run", **variables)
        return run(steps, settings, WIDTHS[:1])

    first = filled(server, tmp_path / "a", attempt)
    assert first["counters"]["compiled"] > 0
    assert first["counters"]["tuned"] > 0
    assert first["counters"]["miss_remote"] > 0
    log = tmp_path / "log"
    second, stderr = unhurried(lambda: attempt(tmp_path / "b", LIGER_JIT_LOG=str(log)))
    counters = second["counters"]
    assert (counters["compiled"], counters["tuned"], counters["hit_disk"]) == (0, 0, 0)
    assert counters["hit_remote"] > 0
    assert second["bits"] == first["bits"]
    assert stderr == ""
    # What came is kept: the next process needs no server.
    assert set(entries(tmp_path / "b")) <= set(entries(tmp_path / "a"))
    third, _ = run(steps, environment(tmp_path / "b", "", "first-run"), WIDTHS[:1])
    assert third["counters"]["compiled"] == 0
    assert third["counters"]["hit_disk"] == counters["hit_remote"]


def test_what_a_short_process_compiled_is_sent_before_it_ends(server, tmp_path):
    def attempt(folder):
        return run(steps, environment(folder, server.url()), WIDTHS[:1])

    first = filled(server, tmp_path / "a", attempt)
    assert len(entries(tmp_path / "a")) == first["counters"]["compiled"] > 0


def kill(server):
    server.stop()


def pause(server):
    server.pause()


def fill(server):
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", "1")


@pytest.mark.parametrize("fault", [kill, pause, fill])
def test_trouble_during_a_run_changes_no_number(alone, server, tmp_path, fault):
    with started(steps, environment(tmp_path / "a", server.url()), WIDTHS, WIDTHS[1]) as process:
        assert process.receive() == "here"
        fault(server)
        process.send("go on")
        result = process.result()
        stderr = process.stderr()
    counters = result["counters"]
    assert result["bits"] == alone["bits"]
    assert counters["compiled"] == alone["counters"]["compiled"]
    assert counters["remote_errors"] >= 1
    # Of the keys after the fault one paid: those before it cost microseconds.
    assert counters["remote_microseconds"] < 300_000
    assert stderr.count("liger_jit warning") == 1
    assert "the shared cache" in stderr


def test_wrong_password_changes_no_number_and_is_not_shown(alone, tmp_path):
    server = RedisServer(tmp_path, "--requirepass", "another")
    log = tmp_path / "log"
    variables = environment(tmp_path / "a", server.url(PASSWORD), LIGER_JIT_LOG=str(log))
    result, stderr = run(steps, variables)
    server.stop()
    assert result["bits"] == alone["bits"]
    assert result["counters"]["remote_errors"] >= 1
    assert stderr.count("liger_jit warning") == 1
    assert "WRONGPASS" in stderr
    for text in (stderr, log.read_text(), str(result)):
        assert PASSWORD not in text


def shown(connection):
    from liger_jit import cli

    with open(os.devnull, "w") as nowhere:
        saved = os.dup(1)
        os.dup2(nowhere.fileno(), 1)
        code = cli.main(["env"])
        os.dup2(saved, 1)
    from liger_jit.library import ask

    return code, ask("_environment")


def test_env_shows_the_server_and_no_password(tmp_path):
    url = f"redis://me:{PASSWORD}@server:7000/team"
    (_, told), stderr = run(shown, environment(tmp_path, url))
    assert told["cache"]["remote"] == "redis://server:7000/team"
    assert PASSWORD not in str(told)
    assert "redis://***@server:7000/team" in str(told["variables"])
    assert PASSWORD not in stderr


def test_values_that_lie_are_compiled_anew_and_mended(alone, server, tmp_path):
    def attempt(folder):
        return run(steps, environment(emptied(folder), server.url()))

    good = filled(server, tmp_path / "a", attempt)
    names = [name for name in server.ask("KEYS", "*").split(b"\r\n") if name.startswith(b"test/")]
    values = {name: value_of(server, name) for name in names}
    flipped = bytearray(values[names[0]])
    flipped[-1] ^= 1
    lies = [bytes(flipped), values[names[0]], b"garbage", values[names[3]][:100]]

    def lied_to():
        for name, lie in zip(names, lies):
            assert server.ask("SET", name, lie) == b"+OK\r\n"
        return attempt(tmp_path / "b")

    def is_mended():
        return not any(value_of(server, name) == lie for name, lie in zip(names, lies))

    result, stderr = unhurried(lied_to, is_mended)
    assert result["bits"] == alone["bits"] == good["bits"]
    assert result["counters"]["remote_rejected"] == len(lies) == result["counters"]["compiled"]
    assert result["counters"]["hit_remote"] == len(names) - len(lies)
    assert stderr.count("liger_jit warning") == 1
    again, stderr = unhurried(lambda: attempt(tmp_path / "c"))
    assert again["counters"]["compiled"] == 0
    assert stderr == ""


def sockets_to(port):
    """Of this process."""
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(wanted)}
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found & inodes


def fork_after_use(connection, port):
    import liger_jit
    import torch

    def one(width):
        with torch.no_grad():
            liger_jit.functional.rms_norm(torch.ones(3, width), torch.ones(width))

    one(16)
    before = sockets_to(port)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        inherited = sockets_to(port)
        one(24)
        errors = liger_jit.stats()["counters"]["remote_errors"]
        own = sockets_to(port)
        told = [len(inherited), len(own), bool(own & before), errors]
        os.write(writable, json.dumps(told).encode())
        os._exit(0)
    os.waitpid(child, 0)
    one(40)
    told = json.loads(os.read(readable, 1000))
    result = liger_jit.stats()
    result["counters"]["remote_errors"] += told.pop()
    return {**result, "sockets": [len(before), *told]}


def test_a_forked_child_has_a_connection_of_its_own(server, tmp_path):
    def attempt():
        variables = environment(emptied(tmp_path / "a"), server.url())
        return run(fork_after_use, variables, server.port)

    before, inherited, own, shared = unhurried(attempt)[0]["sockets"]
    assert before == 1
    assert inherited == 0
    assert (own, shared) == (1, False)
