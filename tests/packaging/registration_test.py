"""Every op is in the library, in whichever order the linker takes the object files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tree import BINDING, BUILD, CORE, ROOT, cmake, link_command, needs_build
from liger_jit import library

needs_build()
SAY = "import liger_jit.library as l; print(*sorted(op['name'] for op in l.ops()))"


def python_with_library(folder, part, words):
    """A Python that sees a copy of the package in which `words` have linked that library anew."""
    package = folder / "liger_jit"
    shutil.copytree(ROOT / "python/liger_jit", package, ignore=shutil.ignore_patterns("native"))
    (package / "native").mkdir()
    for name in (CORE, BINDING):
        shutil.copy(BUILD / name, package / "native" / name)
    output = words.index("-o") + 1
    words = [*words[:output], str(package / "native" / part), *words[output + 1 :]]
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


@pytest.mark.parametrize("part", [CORE, BINDING])
@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_every_order_of_the_linker_gives_every_op(tmp_path, part, order):
    done = python_with_library(tmp_path, part, reordered(link_command(part), order))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(op["name"] for op in library.ops())


@pytest.mark.parametrize(
    "part, lost, said",
    [
        (CORE, "mlp/swiglu", "ops are declared"),
        (BINDING, "composites/mlp/gated_mlp", "neither kernels nor a composite"),
    ],
)
def test_a_library_that_lacks_a_part_is_refused(tmp_path, part, lost, said):
    words = link_command(part)
    short = [word for word in words if not word.endswith(f"{lost}.cpp.o")]
    assert len(short) == len(words) - 1
    done = python_with_library(tmp_path, part, short)
    assert done.returncode != 0
    assert "LibraryMissing" in done.stderr
    assert said in done.stderr


def test_a_binding_of_another_build_is_refused_before_it_runs(tmp_path):
    """Each core names its build, and the loader compares: no code meets data of another layout."""
    words = link_command(CORE)
    (script,) = [word for word in words if "--version-script=" in word]
    ours = Path(BUILD, script.split("=")[1]).read_text()
    another = tmp_path / "another.map"
    another.write_text(re.sub("LIGER_JIT_[0-9a-f]{16}", "LIGER_JIT_0123456789abcdef", ours))
    words[words.index(script)] = f"-Wl,--version-script={another}"
    done = python_with_library(tmp_path, CORE, words)
    assert done.returncode == 1
    assert "LibraryMissing" in done.stderr
    assert "are of two builds" in done.stderr
    assert BINDING in done.stderr


def test_another_source_of_the_core_is_another_build(tmp_path):
    """The name is of all that the core is made of: here one byte of a header changes."""
    source, output = tmp_path / "one.h", tmp_path / "exports.map"

    def named(text):
        source.write_text(text)
        script = ROOT / "cmake/core_exports.cmake"
        words = ["-D", f"FILES={source}", "-D", f"OUTPUT={output}", "-D", "BUILD=gcc", "-P", script]
        subprocess.run([cmake(), *words], check=True)
        return output.read_text().split()[0]

    first = named("struct One { int a; };")
    assert re.fullmatch("LIGER_JIT_[0-9a-f]{16}", first)
    assert named("struct One { long a; };") != first
    assert named("struct One { int a; };") == first
