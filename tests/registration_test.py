"""Every op is in the library, in whichever order the linker takes the object files."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from liger_jit import library

ROOT = Path(__file__).resolve().parent.parent
BUILD = library.LIBRARY.resolve().parent
SAY = "import liger_jit.library as l; print(*sorted(op['name'] for op in l.ops()))"


def link_command():
    """The words that the build links the library with."""
    settings = (BUILD / "CMakeCache.txt").read_text()
    ninja = re.search(r"CMAKE_MAKE_PROGRAM:\w+=(.+)", settings)[1]
    told = subprocess.run(
        [ninja, "-C", BUILD, "-t", "commands", "libliger_jit.so"],
        capture_output=True,
        text=True,
        check=True,
    )
    (link,) = [part for part in told.stdout.splitlines()[-1].split(" && ") if " -shared " in part]
    return shlex.split(link)


def python_with_library(folder, words):
    """A Python that sees a copy of the package with the library that `words` link."""
    package = folder / "liger_jit"
    shutil.copytree(ROOT / "python/liger_jit", package, ignore=shutil.ignore_patterns("native"))
    (package / "native").mkdir()
    output = words.index("-o") + 1
    words = [*words[:output], str(package / "native/libliger_jit.so"), *words[output + 1 :]]
    subprocess.run(words, cwd=BUILD, check=True)
    return subprocess.run(
        [sys.executable, "-c", SAY],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def objects(words):
    return [word for word in words if word.endswith(".o")]


def reordered(words, order):
    ordered = iter(order(objects(words)))
    return [next(ordered) if word.endswith(".o") else word for word in words]


@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_every_order_of_the_linker_gives_every_op(tmp_path, order):
    done = python_with_library(tmp_path, reordered(link_command(), order))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(op["name"] for op in library.ops())


@pytest.mark.parametrize("lost", ["swiglu", "composites/gated_mlp"])
def test_a_library_that_lacks_a_part_is_refused(tmp_path, lost):
    words = link_command()
    short = [word for word in words if not word.endswith(f"{lost}.cpp.o")]
    assert len(short) == len(words) - 1
    done = python_with_library(tmp_path, short)
    assert done.returncode != 0
    assert "LibraryMissing" in done.stderr
    said = "ops are declared" if lost == "swiglu" else "neither kernels nor a composite"
    assert said in done.stderr
