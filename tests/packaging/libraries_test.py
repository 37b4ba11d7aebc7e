"""The core and its bindings: what each needs, what each shows, and that no state is in both."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from liger_jit import library
from liger_jit.tried import TORCH, TRANSFORMERS

ROOT = Path(__file__).resolve().parents[2]
PARTS = (library.LIBRARY, library.BINDING)


def told(*command):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    return done.stdout


def needed(path):
    return re.findall(r"NEEDED.*\[(.+)\]", told("readelf", "-d", path))


def symbols(path, *options):
    """(kind, name) of what the library defines, as nm says it."""
    lines = told("nm", "--defined-only", *options, path).splitlines()
    return {(line.split()[1], line.split()[2].split("@")[0]) for line in lines}


def test_the_core_needs_nothing_of_torch():
    absent = ("torch", "c10", "python", "cuda", "hip", "nvrtc", "fmt", "hiredis", "zstd", "libmd")
    for one in needed(library.LIBRARY):
        assert not any(word in one for word in absent), one
    undefined = told("nm", "-D", "--undefined-only", library.LIBRARY)
    assert not re.search(r"_ZNK?(3c10|2at|5torch)", undefined)


def test_a_binding_brings_the_core_and_finds_it_beside_itself():
    assert library.LIBRARY.name in needed(library.BINDING)
    assert "$ORIGIN:" in told("readelf", "-d", library.BINDING)


def test_the_core_shows_namespace_liger_alone():
    """So no fmt, hiredis or zstd of ours stands in for those of torch or the process."""
    shown = {name for _, name in symbols(library.LIBRARY, "-D")}
    assert len(shown) > 100
    ours = re.compile(r"_Z(NK?|T[VISTh]N?|Thn?\d+_N)5liger|LIGER_JIT_[0-9a-f]{16}$")
    for name in shown:
        assert ours.match(name), name


def test_a_binding_shows_its_entry_alone():
    shown = {name for kind, name in symbols(library.BINDING, "-D") if kind == "T"}
    assert shown - {"_init", "_fini"} == {"liger_jit_register"}


def test_no_state_exists_in_both():
    """A variable of a header that is in both would have two values in one process."""
    variables = [
        {name for kind, name in symbols(path) if kind in "bBdDuvV" and "5liger" in name}
        for path in PARTS
    ]
    assert all(variables), "stripped libraries tell nothing"
    # Tables and names of types, and of exceptions: the same words in both.
    both = {name for name in variables[0] & variables[1] if not re.search("_ZT[VIST]", name)}
    assert not both


def test_an_error_of_the_core_is_the_bindings():
    """Thrown in the one and caught in the other, by its type."""
    with pytest.raises(ValueError, match="no_such_op"):
        library.native()._show("no_such_op", "float32", {}, "cpu", False)


FAKE = """
import torch
torch.__version__ = "2.99.1+cu999"
import liger_jit
"""


def test_an_unknown_torch_is_told_what_is_there():
    done = subprocess.run(
        [sys.executable, "-c", FAKE],
        env={"PYTHONPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "LibraryMissing: liger_jit: torch 2.99.1+cu999 is running" in said
    assert f"has bindings for torch {', '.join(library.bindings())}." in said
    assert "pip install --no-deps --force-reinstall ." in said


def test_a_build_is_for_the_releases_of_torch_that_were_tried():
    text = (ROOT / "cmake/find_torch.cmake").read_text()
    assert f"torch_minor VERSION_LESS {TORCH[0]})" in text
    assert f"torch_minor VERSION_GREATER {TORCH[-1]})" in text
    after = f"2.{int(TORCH[-1].split('.')[1]) + 1}"
    assert f'"torch>={TORCH[0]},<{after}"' in (ROOT / "pyproject.toml").read_text()
    document = (ROOT / "docs/compatibility.md").read_text()
    for torch in TORCH:
        assert f"| {torch}" in document
    for transformers in TRANSFORMERS:
        assert f"| {transformers}" in document
