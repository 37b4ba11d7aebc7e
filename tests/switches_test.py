"""LIGER_JIT_CACHE_MODE and LIGER_JIT_LOG, each in a process of its own."""

import json
import re
from pathlib import Path

import pytest
from fresh_process import run
from own_command import command
from remote_test import environment, steps

EVENTS = {
    "compile",
    "hit",
    "tune",
    "fallback",
    "corrupt",
    "publish",
    "load",
    "prune",
    "warning",
}


def files(folder):
    """What stands in a cache: another inode is another file under the old name."""
    return {path: path.stat().st_ino for path in Path(folder).glob("v1/*/*/*")}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder that has what one width needs, and what its making came to."""
    folder = tmp_path_factory.mktemp("filled")
    return folder, run(steps, environment(folder, ""), (16,))[0]


def test_readonly_reads_and_writes_nothing(filled, tmp_path):
    folder, first = filled
    before = files(folder)
    readonly = {"LIGER_JIT_CACHE_MODE": "readonly"}
    result, stderr = run(steps, environment(folder, "", **readonly), (16, 24))
    counters = result["counters"]
    assert counters["hit_disk"] == first["counters"]["compiled"] > 0
    assert counters["compiled"] > 0
    assert (counters["published"], counters["publish_failed"]) == (0, 0)
    assert files(folder) == before
    assert stderr == ""
    run(steps, environment(tmp_path / "absent", "", **readonly), (16,))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("cache", "verify", "--repair"),
        ("cache", "prune", "--max-size", "1K"),
        ("cache", "clear"),
        ("compile", "--config", "CONFIG", "--arch", "cpu"),
        ("cache", "export", "--config", "CONFIG", "--arch", "cpu", "-o", "OUT"),
    ],
)
def test_readonly_commands_that_would_write_say_so(filled, config, tmp_path, arguments):
    folder, _ = filled
    before = files(folder)
    places = {"CONFIG": str(config), "OUT": str(tmp_path / "out.ljb")}
    readonly = environment(folder, "", LIGER_JIT_CACHE_MODE="readonly")
    done = command(*(places.get(word, word) for word in arguments), **readonly)
    assert done.returncode != 0
    assert "LIGER_JIT_CACHE_MODE=readonly" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(folder) == before


def offline_steps(connection, widths):
    try:
        return steps(connection, widths)
    except RuntimeError as trouble:
        return str(trouble)


def test_offline_compiles_nothing_and_says_what_is_missing(filled):
    folder, first = filled
    offline = environment(folder, "", "first-run", LIGER_JIT_CACHE_MODE="offline")
    result, _ = run(offline_steps, offline, (16,))
    assert result["bits"] == first["bits"]
    assert (result["counters"]["compiled"], result["counters"]["tuned"]) == (0, 0)
    message, _ = run(offline_steps, offline, (24,))
    for word in ("RmsNormForward", "cpu", "LIGER_JIT_CACHE_MODE", "liger-jit compile"):
        assert word in message


def test_refresh_makes_everything_anew_and_replaces_it(filled):
    folder, first = filled
    before = files(folder)
    result, _ = run(steps, environment(folder, "", LIGER_JIT_CACHE_MODE="refresh"), (16,))
    counters = result["counters"]
    assert counters["compiled"] == counters["published"] == first["counters"]["compiled"] > 0
    assert (counters["hit_disk"], result["bits"]) == (0, first["bits"])
    after = files(folder)
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


def test_off_keeps_everything_in_memory(filled):
    folder, first = filled
    before = files(folder)
    result, stderr = run(steps, environment(folder, "", LIGER_JIT_CACHE_MODE="off"), (16,))
    counters = result["counters"]
    assert counters["compiled"] == first["counters"]["compiled"]
    assert (counters["hit_disk"], counters["published"]) == (0, 0)
    assert files(folder) == before
    assert stderr == ""


def test_log_is_one_json_object_a_line(tmp_path):
    log = tmp_path / "run.ndjson"
    variables = environment(tmp_path / "a", "", "first-run", LIGER_JIT_LOG=str(log), RANK="3")
    result, stderr = run(steps, variables, (16,))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert stderr == ""
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["rank"] == 3
        assert line["pid"] == lines[0]["pid"] > 0
        assert line["event"] in EVENTS
    compiles = [line for line in lines if line["event"] == "compile"]
    assert len(compiles) == result["counters"]["compiled"]
    assert all(line["kernel"].startswith("RmsNorm") and line["ms"] > 0 for line in compiles)
    tunes = [line for line in lines if line["event"] == "tune"]
    assert len(tunes) == result["counters"]["tuned"]
    assert {"load", "publish"} <= {line["event"] for line in lines}


def test_json_log_on_stderr_has_the_warnings_too(tmp_path):
    (tmp_path / "a").mkdir(mode=0o777)
    (tmp_path / "a").chmod(0o777)
    stderr = run(steps, environment(tmp_path / "a", "", LIGER_JIT_LOG="json"), (16,))[1]
    texts = [line for line in stderr.splitlines() if not line.startswith("{")]
    (warning,) = [line for line in texts if "liger_jit warning" in line]
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    (told,) = [line for line in lines if line["event"] == "warning"]
    assert told["message"] in warning
    assert "rank" not in told


def test_log_as_text_names_its_fields(tmp_path):
    stderr = run(steps, environment(tmp_path / "a", "", LIGER_JIT_LOG="1"), (16,))[1]
    assert re.search(r"^liger_jit compile kernel=RmsNormForward arch=\S+ ms=\S+ key=", stderr, re.M)


def profiled(connection):
    import torch

    with torch.profiler.profile() as profile:
        steps(connection, (16,))
    return {event.name for event in profile.events()}


def test_compiles_loads_and_searches_are_ranges_of_the_profiler(tmp_path):
    # One thread, as torch's profiler looks at its own; it compiles what no other one has begun.
    names = run(profiled, environment(tmp_path, ""))[0]
    assert "liger_jit compile RmsNormForward" in names
    assert "liger_jit load RmsNormForward" in names
    names = run(profiled, environment(tmp_path, "", "first-run"))[0]
    assert "liger_jit tune RmsNormForward" in names
