"""What a run of all tests promises: one cache for all workers, the minutes of each part at the end,
and that no failure is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import core_tests  # noqa: E402
import run_tests  # noqa: E402
from test_summary import Summary  # noqa: E402

WORKER = """
import os
from pathlib import Path

def test_it():
    told = Path(os.environ["TOLD"]) / os.environ["PYTEST_XDIST_WORKER"]
    told.write_text(os.environ["LIGER_JIT_CACHE"])
    assert Path(os.environ["LIGER_JIT_CACHE"]).is_dir()
"""


def caches_of_two_workers(folder, **variables):
    """Of a run of its own, whose conftest is ours."""
    (folder / "it_test.py").write_text(WORKER)
    (folder / "told").mkdir()
    places = [ROOT / "tests", ROOT / "python"]
    known = {name: value for name, value in os.environ.items() if "TEST" not in name}
    known |= {"TOLD": str(folder / "told"), "PYTHONPATH": ":".join(map(str, places)), **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"]
    command += ["-n", "2", "--dist", "each", f"--rootdir={folder}", "it_test.py"]
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = [path.read_text() for path in (folder / "told").iterdir()]
    assert len(told) == 2
    return told


def test_workers_have_one_cache_that_goes_with_the_run(tmp_path):
    first, second = caches_of_two_workers(tmp_path)
    assert first == second != os.environ["LIGER_JIT_CACHE"]
    assert not Path(first).exists()


def test_a_cache_that_is_given_is_used_and_stays(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    assert set(caches_of_two_workers(tmp_path, TESTS_CACHE=str(given))) == {str(given)}
    assert given.is_dir()


def test_closing_lines_give_the_minutes_of_each_part_and_then_the_count(capsys, monkeypatch):
    monkeypatch.setattr(run_tests.time, "time", lambda: 1000.0)
    monkeypatch.setenv("CI_BEGAN", "400")
    monkeypatch.setenv("TESTS_BEGAN", "880")
    summary = Summary()
    run_tests.minutes_before(summary)
    with summary.part("form of the code"):
        summary.add("format", True)
    summary.show()
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines == [
        "  8.0 minutes: demo with its installs and build",
        "  2.0 minutes: installs and build of the tests",
        "  0.0 minutes: form of the code",
        " 10.0 minutes: all",
        "1 passed, 0 failed, 0 skipped",
    ]


def shard(results, status):
    """A program that does as one of GoogleTest would: an XML of one case, and an exit code."""
    case = '<testsuites><testcase classname="Suite" name="case" result="completed"/></testsuites>'
    program = (
        "import pathlib, sys; sys.argv[2] and pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    )
    return [sys.executable, "-c", f"{program}; sys.exit({status})", results, case]


@pytest.mark.parametrize("codes, worst", [((0, 0), 0), ((0, 3), 3), ((4, 0), 4)])
def test_of_programs_side_by_side_a_failure_of_any_is_one_of_all(tmp_path, codes, worst):
    commands = [shard(tmp_path / f"{index}.xml", code) for index, code in enumerate(codes)]
    assert run_tests.run(commands, [dict(os.environ)] * 2) == worst
    assert all((tmp_path / f"{index}.xml").exists() for index in range(2))


def test_a_shard_that_told_nothing_is_a_failure(tmp_path):
    summary = Summary()
    summary.add_xml("C++ tests, shard 1", tmp_path / "absent.xml", 0)
    assert summary.failures and summary.exit_code == 1


@pytest.mark.parametrize("listed", [core_tests.CORE, core_tests.QUICK])
def test_files_that_are_listed_exist_and_are_listed_once(listed):
    assert len(set(listed)) == len(listed) > 5
    for path in listed:
        assert (ROOT / path.split("::")[0]).is_file(), path
