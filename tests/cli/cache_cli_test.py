"""`liger-jit cache`: looking after the folder, and bundles from one machine to another."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_test import SMALL
from compilers import needs
from own_command import command_json

DAY_SECONDS = 24 * 3600


# Answers commands until its input ends. The cache of the other tests is not for clearing, nor is
# it still while they run.
SERVER = """
import contextlib, io, json, sys
from liger_jit.cli import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`liger-jit` in one process for this file, with a cache of its own."""
    paths = os.pathsep.join(filter(None, sys.path))
    cache = str(tmp_path_factory.mktemp("server") / "cache")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, "PYTHONPATH": paths, "LIGER_JIT_CACHE": cache},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(server):
    """A command: (exit code, standard output, standard error)."""

    def run(*arguments):
        server.stdin.write(json.dumps(arguments) + "\n")
        server.stdin.flush()
        return tuple(json.loads(server.stdout.readline()))

    return run


# A kernel that a process has made is not written to disk again, so each test takes another size.
SIZES = itertools.count(10_007, 2)


def show_new(run_json, op, *arguments):
    return run_json("show", op, "--size", str(next(SIZES)), "--rows", "4", *arguments)


@pytest.fixture
def filled(run_json):
    """The cache with one kernel in it; its file."""
    needs("cpu")
    run_json("cache", "clear")
    show_new(run_json, "swiglu")
    (file,) = run_json("cache", "ls", "--kernel", "SwigluForward")["files"]
    return Path(file["path"])


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "action", ["ls", "show", "stats", "verify", "prune", "export", "import", "clear"]
)
def test_help_of_each_action_has_an_example(run, action):
    code, out, _ = run("cache", action, "--help")
    assert code == 0
    assert f"liger-jit cache {action}" in out.split("example", 1)[1]


def test_stats_count_what_ls_lists(filled, run, run_json):
    counted = run_json("cache", "stats", "--kernel", "SwigluForward")
    assert counted["entries"] == sum(group["entries"] for group in counted["groups"]) == 1
    assert counted["most_bytes"] == 1 << 30
    assert counted["bytes"] == filled.stat().st_size
    code, out, _ = run("cache", "ls")
    assert code == 0
    assert "SwigluForward" in out
    assert run_json("cache", "ls", "--arch", "cpu")["files"]
    assert not run_json("cache", "ls", "--arch", "sm_90a")["files"]


def test_json_is_taken_before_and_after_the_action(filled, run):
    assert json.loads(run("cache", "--json", "ls")[1]) == json.loads(
        run("cache", "ls", "--json")[1]
    )


def test_show_tells_all_of_one_entry(filled, run, run_json):
    (entry,) = run_json("cache", "show", filled.stem[:8])
    assert entry["name"] == f"a/{filled.stem}"
    assert entry["meta"]["kernel"] == "SwigluForward"
    assert ".width = " in entry["meta"]["spec"]
    assert float(entry["meta"]["compile_ms"]) > 0
    code, out, _ = run("cache", "show", f"a/{filled.stem}")
    assert code == 0
    assert str(filled) in out
    code, _, err = run("cache", "show", "a/ffffffffffffffff")
    assert code == 1
    assert "cache ls" in err


def test_verify_finds_what_is_damaged_and_repairs_it(filled, run, run_json):
    assert run_json("cache", "verify")["bad"] == []
    damage(filled)
    assert run_json("cache", "verify", code=1)["bad"] == [str(filled)]
    assert "(bad)" in run("cache", "ls")[1]
    assert "--repair" in run("cache", "verify")[1]
    repaired = run_json("cache", "verify", "--repair")
    assert repaired["moved"] == [str(filled)]
    assert not filled.exists()
    assert run_json("cache", "verify")["bad"] == []
    assert run_json("cache", "ls", "--kernel", "SwigluForward")["files"] == []


def test_an_entry_under_another_name_is_bad(filled, run_json):
    other = filled.with_name(f"{'0' * 32}.ljk")
    other.write_bytes(filled.read_bytes())
    assert run_json("cache", "verify", code=1)["bad"] == [str(other)]
    other.unlink()


def test_prune_takes_the_longest_unused_first(filled, run, run_json):
    show_new(run_json, "geglu", "--dtype", "float64")
    before = filled.stat().st_mtime - 3 * DAY_SECONDS
    os.utime(filled, (before, before))
    total = run_json("cache", "stats")["bytes"]
    answer = run_json("cache", "prune", "--max-size", str(total - 1))
    assert (answer["removed"], answer["elected"]) == (1, True)
    assert not filled.exists()
    assert "0 B stay" in run("cache", "prune", "--max-size", "0")[1]
    assert run_json("cache", "ls")["files"] == []
    code, _, err = run("cache", "prune", "--max-size", "much")
    assert code == 2
    assert "500M" in err


def test_export_and_import_carry_entries(filled, run, run_json, tmp_path):
    good = filled.read_bytes()
    bundle = tmp_path / "kernels.ljb"
    made = run_json("cache", "export", "--kernel", "SwigluForward", "-o", str(bundle))
    assert made["entries"] == 1
    assert made["bytes"] == bundle.stat().st_size
    assert "compiler=" in made["provenance"]
    assert "date=" not in made["provenance"]
    filled.unlink()
    taken = run_json("cache", "import", str(bundle))
    assert (taken["written"], taken["sha256"]) == (1, made["sha256"])
    assert run_json("cache", "verify")["bad"] == []
    # The same entry but for the time that its compile took.
    assert filled.read_bytes()[-100:] == good[-100:]
    assert run_json("cache", "import", str(bundle))["existed"] == 1
    code, out, _ = run("cache", "import", str(bundle))
    assert code == 0
    assert "1 were there" in out


def test_a_date_is_noted_where_it_is_given(filled, run_json, tmp_path):
    made = run_json("cache", "export", "--date", "2026-11-21", "-o", str(tmp_path / "k.ljb"))
    assert "date=2026-11-21\n" in made["provenance"]


def test_a_damaged_bundle_is_refused_and_nothing_is_written(filled, run, run_json, tmp_path):
    bundle = tmp_path / "kernels.ljb"
    run_json("cache", "export", "-o", str(bundle))
    run_json("cache", "clear")
    damage(bundle)
    code, _, err = run("cache", "import", str(bundle))
    assert code == 1
    assert "not imported" in err
    assert run_json("cache", "ls")["files"] == []
    assert "No such file" in run("cache", "import", str(tmp_path / "absent.ljb"))[2]


def test_export_says_what_is_wrong_with_what_was_asked(filled, run, run_json, config, tmp_path):
    file = ["-o", str(tmp_path / "k.ljb")]
    for arguments, told in [
        (["--config", str(config)], "--arch"),
        (["--config", str(config), "--arch", "cpu", "--kernel", "x"], "--kernel"),
        (["--config", "/nowhere", "--arch", "cpu"], "/nowhere"),
        (["--arch", "sm_75"], "no such entry"),
    ]:
        code, _, err = run("cache", "export", *arguments, *file)
        assert code == 2, err
        assert told in err
    assert not (tmp_path / "k.ljb").exists()
    code, _, err = run("cache", "export", "-o", "/proc/k.ljb")
    assert code == 2
    assert "/proc/k.ljb" in err


def liger_jit(cache, *arguments, **variables):
    """The command in a process of its own, with a cache of its own; its JSON."""
    return command_json(*arguments, LIGER_JIT_CACHE=str(cache), **variables)


def test_two_machines_make_the_same_bundle_and_it_spares_a_third_all_compiles(config, tmp_path):
    needs("cpu")
    needs("cuda")
    model = ["--config", str(config), "--arch", "cpu,sm_90a", "--tokens", "8"]
    first, second = tmp_path / "first.ljb", tmp_path / "second.ljb"
    made = liger_jit(tmp_path / "one", "cache", "export", *model, "-o", str(first))
    backwards = [part.replace("cpu,sm_90a", "sm_90a,cpu") for part in model]
    again = liger_jit(tmp_path / "two", "cache", "export", *backwards, "-o", str(second))
    assert made["sha256"] == again["sha256"]
    assert first.read_bytes() == second.read_bytes()
    assert "target=sm_90a\n" in made["provenance"]
    assert "model=llama\n" in made["provenance"]

    layer = {"LIGER_JIT_CACHE_READONLY": str(second)}
    answer = liger_jit(tmp_path / "three", "compile", *model, **layer)
    assert [target["compiled"] for target in answer["targets"]] == [0, 0]
    assert sum(target["from_cache"] for target in answer["targets"]) == made["entries"]
    assert not list((tmp_path / "three").rglob("*.ljk"))


def test_export_takes_from_layers_what_the_folder_lacks(filled, run_json, tmp_path):
    bundle, again = tmp_path / "kernels.ljb", tmp_path / "again.ljb"
    made = run_json("cache", "export", "--kernel", "SwigluForward", "-o", str(bundle))
    layer = {"LIGER_JIT_CACHE_READONLY": str(bundle)}
    listed = liger_jit(tmp_path / "empty", "cache", "ls", **layer)
    assert [file["layer"] for file in listed["files"]] == [str(bundle)]
    second = liger_jit(tmp_path / "empty", "cache", "export", "-o", str(again), **layer)
    assert second["sha256"] == made["sha256"]


def test_a_seed_beside_the_library_is_the_last_layer(filled, run_json, tmp_path):
    """The library is copied with a seed beside it; this tree's own folder is left alone."""
    native = tmp_path / "liger_jit" / "native"
    native.mkdir(parents=True)
    from liger_jit.library import BINDING, LIBRARY

    for path in LIBRARY.parent.parent.iterdir():
        if path.name != "native":
            (native.parent / path.name).symlink_to(path)
    for part in (LIBRARY, BINDING):
        (native / part.name).write_bytes(part.read_bytes())
    # Not a link: Python would find its way back to the source tree.
    (native.parent / "library.py").unlink()
    (native.parent / "library.py").write_text((LIBRARY.parent.parent / "library.py").read_text())
    run_json("cache", "export", "--kernel", "SwigluForward", "-o", str(native / "seed.ljb"))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    listed = liger_jit(tmp_path / "empty", "cache", "ls", PYTHONPATH=path)
    assert [file["path"] for file in listed["files"]] == [str(native / "seed.ljb")]


# The command, and then a while for the thread in the background.
THEN_WAIT = """
import pathlib, sys, time
from liger_jit.cli import main
code, end = main(sys.argv[2:]), time.monotonic() + 20
while not pathlib.Path(sys.argv[1]).exists() and time.monotonic() < end:
    time.sleep(0.01)
sys.exit(code)
"""


def test_pruning_by_itself_follows_the_variable(filled, tmp_path):
    cache = tmp_path / "cache"
    liger_jit(cache, "show", "swiglu", *SMALL)
    (old,) = cache.rglob("*.ljk")
    done = cache / "v1" / "pruned"
    done.unlink(missing_ok=True)
    process = subprocess.run(
        [sys.executable, "-c", THEN_WAIT, str(done), "show", "geglu", *SMALL],
        env={
            **os.environ,
            "LIGER_JIT_CACHE": str(cache),
            "LIGER_JIT_CACHE_SIZE": "1K",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert done.exists()
    assert not old.exists()
