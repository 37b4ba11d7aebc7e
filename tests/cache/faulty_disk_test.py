"""A real training run on a disk, a file server or a clock that misbehaves: the same bits.

Each run starts from a copy of a warm cache of which some entries are missing and some are damaged,
so that it meets hits, misses, damage, compiles and publishes.

A few kinds of trouble by default; with TORTURE_LONG=1 all of them.
"""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from trained_run import SHIM, Runs

DAY_SECONDS = 86_400
NFS_SECONDS = 60
MOST_EXTRA_SECONDS = 3.0  # for a key; 0.5 where nothing else runs

DISK_FAULTS = {
    "disk full": "write=ENOSPC",
    "quota told at close": "close=EDQUOT",
    "writes fail": "write=EIO",
    "reads fail": "read=EIO",
    "some reads fail": "read=EIO@3",
    "read-only": "create=EROFS;mkdir=EROFS;link=EROFS;rename=EROFS;renameat2=EROFS",
    "no permission": "open=EACCES;create=EACCES;mkdir=EACCES",
    "every handle is stale": "open=ESTALE;read=ESTALE",
    "some handles are stale": "open=ESTALE@3;read=ESTALE@5;stat=ESTALE@4",
    "interrupted": "open=EINTR@2;create=EINTR@2;read=EINTR@2;write=EINTR@2;close=EINTR@2",
    "short reads and writes": "read=short;write=short",
    "no hard links": "link=EPERM",
    "no hard links and no renameat2": "link=EPERM;renameat2=ENOSYS",
    "link made but said to have failed": "link=lie",
    "no descriptors": "open=EMFILE@2;create=EMFILE@2",
}
# What a correct process does not even notice: no warning at all, and its entries are written.
HARMLESS = {
    "interrupted",
    "short reads and writes",
    "no hard links",
    "no hard links and no renameat2",
    "link made but said to have failed",
}
NFS_FAULTS = {
    "negative look-ups kept": {"FAULT_SHIM_NEGATIVE_SECONDS": str(NFS_SECONDS)},
    "links seen late": {"FAULT_SHIM_LATE_SECONDS": str(NFS_SECONDS)},
    "locks missing": {"FAULT_SHIM_RULES": "flock=ENOSYS"},
    "no lock server": {"FAULT_SHIM_RULES": "flock=ENOLCK"},
    "locks lie": {"FAULT_SHIM_RULES": "flock=lie"},
    "locks hang": {"FAULT_SHIM_RULES": "flock=hang"},
}
LONG = os.environ.get("TORTURE_LONG") == "1"
SHORT_DISK_FAULTS = (
    "quota told at close",
    "some handles are stale",
    "interrupted",
    "short reads and writes",
    "link made but said to have failed",
)
SHORT_NFS_FAULTS = ("negative look-ups kept", "locks hang")


@pytest.fixture(scope="module")
def runs():
    if not SHIM.is_file():
        pytest.fail(f"{SHIM} is missing; build it with `make tests-build`")
    runs = Runs()
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def warm(runs, tmp_path_factory):
    """The cache and the outcome of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("warm") / "cache"
    outcome = runs.one(LIGER_JIT_CACHE=str(folder))
    assert not outcome.error and not outcome.warnings, outcome
    assert outcome.counters["compiled"] > 5 and outcome.counters["publish_failed"] == 0
    again = runs.one(LIGER_JIT_CACHE=str(folder))
    assert again.bits == outcome.bits and again.counters["compiled"] == 0
    return folder, again


@pytest.fixture(scope="module")
def calm(runs, warm, tmp_path_factory):
    """Two processes at once that nothing disturbs."""
    return runs.run(2, LIGER_JIT_CACHE=str(worn(warm, tmp_path_factory.mktemp("calm"))))


def entries(folder):
    return sorted(folder.glob("v1/?/*/*.lj?"))


def worn(warm, tmp_path):
    """A copy of the warm cache without each eighth entry; the first that is left is damaged."""
    folder = tmp_path / "cache"
    shutil.copytree(warm[0], folder)
    kept = []
    for number, path in enumerate(entries(folder)):
        if number % 8 == 0:
            path.unlink()
        else:
            kept.append(path)
    damage(kept[0], -1)
    return folder


def damage(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def is_sound(runs, folder, bits):
    """An undisturbed run on that folder, whatever happened to it before."""
    outcome = runs.one(LIGER_JIT_CACHE=str(folder))
    assert outcome.bits == bits and not outcome.error
    return outcome


def all_verify(runs, folder, bits):
    """After one more run nothing is left to mend."""
    is_sound(runs, folder, bits)
    again = is_sound(runs, folder, bits)
    assert again.counters["corrupt"] == 0 and again.counters["compiled"] == 0


@pytest.mark.parametrize("fault", DISK_FAULTS if LONG else SHORT_DISK_FAULTS)
def test_training_is_the_same_on_a_disk_that_fails(runs, warm, tmp_path, fault):
    folder = worn(warm, tmp_path)
    outcome = runs.one(
        LIGER_JIT_CACHE=str(folder),
        FAULT_SHIM_FOLDER=str(folder),
        FAULT_SHIM_RULES=DISK_FAULTS[fault],
    )
    assert not outcome.error, outcome
    assert outcome.injected > 0, "the shim did nothing"
    assert outcome.bits == warm[1].bits
    if fault in HARMLESS:
        assert outcome.counters["publish_failed"] == 0
        # Of the damaged entry, which no fault can explain away.
        assert len(outcome.warnings) == 1 and "is damaged" in outcome.warnings[0]
    else:
        trouble = [line for line in outcome.warnings if "is damaged" not in line]
        assert len(trouble) <= 1, outcome.warnings
    is_sound(runs, folder, warm[1].bits)


@pytest.mark.parametrize("fault", NFS_FAULTS if LONG else SHORT_NFS_FAULTS)
def test_two_processes_start_cold_on_a_file_server(runs, warm, calm, tmp_path, fault):
    folder = worn(warm, tmp_path)
    outcomes = runs.run(
        2, LIGER_JIT_CACHE=str(folder), FAULT_SHIM_FOLDER=str(folder), **NFS_FAULTS[fault]
    )
    for outcome in outcomes:
        assert not outcome.error, outcome
        assert outcome.bits == warm[1].bits
        assert len(outcome.warnings) <= 1, outcome.warnings
        keys = max(1, outcome.counters["miss_disk"])
        extra_seconds = outcome.seconds - max(one.seconds for one in calm)
        assert extra_seconds / keys <= MOST_EXTRA_SECONDS
    if "FAULT_SHIM_RULES" not in NFS_FAULTS[fault]:
        assert sum(outcome.injected for outcome in outcomes) > 0, "the shim did nothing"
    all_verify(runs, folder, warm[1].bits)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_a_day_off_changes_nothing(runs, warm, tmp_path, days):
    folder = worn(warm, tmp_path)
    outcome = runs.one(
        LIGER_JIT_CACHE=str(folder), FAULT_SHIM_CLOCK_SECONDS=str(days * DAY_SECONDS)
    )
    assert not outcome.error and outcome.bits == warm[1].bits
    assert outcome.counters["publish_failed"] == 0
    all_verify(runs, folder, warm[1].bits)


@pytest.mark.parametrize("round_number", range(3 if LONG else 1))
def test_every_entry_damaged_is_compiled_anew_with_the_same_numbers(
    runs, warm, tmp_path, round_number
):
    folder = tmp_path / "cache"
    shutil.copytree(warm[0], folder)
    draw = random.Random(round_number)
    for path in entries(folder):
        size = path.stat().st_size
        if draw.random() < 0.5:
            damage(path, draw.randrange(size))
        else:
            path.write_bytes(path.read_bytes()[: draw.randrange(size)])
    count = len(entries(folder))
    outcome = runs.one(LIGER_JIT_CACHE=str(folder))
    assert not outcome.error and outcome.bits == warm[1].bits
    assert outcome.counters["corrupt"] == count
    assert len(outcome.warnings) == 1
    all_verify(runs, folder, warm[1].bits)


def full_disk(folder):
    """A mounted file system with next to no room; None where mounting is refused."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=1777", "tmpfs", folder], capture_output=True
    )
    return folder if done.returncode == 0 else None


@pytest.mark.parametrize("kind", ["absent", "full", "read-only"])
def test_a_folder_for_temporary_files_that_fails_stops_no_run(runs, warm, tmp_path, kind):
    folder = worn(warm, tmp_path)
    temporary = tmp_path / "temporary"
    if kind != "absent" and not full_disk(temporary):
        pytest.skip("mounting is refused")
    try:
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", temporary], check=True)
        outcome = runs.one(LIGER_JIT_CACHE=str(folder), TMPDIR=str(temporary))
    finally:
        if kind != "absent":
            subprocess.run(["umount", "-l", temporary], check=True)
    assert not outcome.error, outcome
    assert outcome.counters["compiled"] > 0
    assert outcome.bits == warm[1].bits


def test_a_process_that_can_start_no_thread_trains_on(runs, warm, tmp_path):
    folder = worn(warm, tmp_path)
    outcome = runs.one(LIGER_JIT_CACHE=str(folder), FAULT_SHIM_NO_THREADS="1")
    assert not outcome.error, outcome
    assert outcome.injected > 0, "no thread was wanted"
    assert outcome.counters["compiled"] > 0
    assert outcome.bits == warm[1].bits
    is_sound(runs, folder, warm[1].bits)


def test_a_process_that_writes_numbers_with_a_comma_reads_the_times_of_others(runs, warm, tmp_path):
    made = tmp_path / "comma_XX"
    done = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", made], capture_output=True, text=True
    )
    if not Path(made).is_dir():
        pytest.skip(f"localedef makes no locale here: {done.stderr.strip()[:80]}")
    outcome = runs.one(
        LIGER_JIT_CACHE=str(warm[0]), LOCPATH=str(tmp_path), TORTURE_LOCALE="comma_XX"
    )
    assert not outcome.error, outcome
    assert outcome.bits == warm[1].bits
    assert outcome.counters["compiled"] == 0
    assert outcome.counters["tune_hit"] > 0
