"""The wheel: built once, installed into a new environment, and used from there.

A wheel for several torches is tried with tools/try_wheel.py, in an environment of each.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from liger_jit import library

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ("liger-hiprtc-helper", "liger-nvrtc-helper")
pytest.importorskip("scikit_build_core")
pytest.importorskip("build")


def run(command):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built beside the tree's own build, in a folder that is kept: only the first time is slow."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    run([*build, "--outdir", folder, "-Ccmake.define.LIGER_JIT_PORTABLE=ON", ROOT])
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """(Python, folder) of an environment that sees this one's packages, torch for one, and has the
    wheel; of the source tree it sees nothing."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", venv])
    (packages,) = venv.glob("lib/python*/site-packages")
    # Of the added folder no .pth is read, and so not the one that leads to the source tree.
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = venv / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", wheel])
    return python, packages


def test_wheel_serves_every_python_and_holds_what_is_needed(wheel):
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for part in (library.LIBRARY.name, library.BINDING.name, *HELPERS):
        assert names.count(f"liger_jit/native/{part}") == 1
    sources = (ROOT / "python" / "liger_jit").rglob("*.py")
    assert {str(path.relative_to(ROOT / "python")) for path in sources} <= set(names)
    for name in names:
        assert name.split("/")[0] in ("liger_jit", wheel.name.split("-py3")[0] + ".dist-info")


def test_libraries_do_not_link_python_and_find_torch_beside_them(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    core = needed(tmp_path / "liger_jit/native" / library.LIBRARY.name)
    binding = needed(tmp_path / "liger_jit/native" / library.BINDING.name)
    assert not any("torch" in name or "c10" in name for name in core)
    assert {library.LIBRARY.name, "libtorch_cpu.so", "libc10.so"} <= set(binding)
    absent = ("python", "cuda", "hip", "nvrtc", "hiredis")  # the last is inside the library
    assert not any(word in name for name in core + binding for word in absent)
    path = run(["readelf", "-d", tmp_path / "liger_jit/native" / library.BINDING.name])
    assert "[$ORIGIN:$ORIGIN/../../torch/lib]" in path


# What manylinux_2_28 lets a library ask for, of families that grew since.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}


def programs(wheel, folder):
    """The libraries and programs of a wheel, unpacked."""
    zipfile.ZipFile(wheel).extractall(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]


def test_the_wheel_asks_for_no_newer_system_than_manylinux_2_28(wheel, tmp_path):
    found = programs(wheel, tmp_path)
    assert {"libliger_jit.so", *HELPERS} <= {path.name for path in found}
    for path in found:
        told = run(["readelf", "--wide", "--version-info", path])
        wanted = re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+) ", told)
        assert wanted
        for family, version in wanted:
            number = tuple(map(int, version.split(".")))
            assert number <= NEWEST[family], f"{path.name} asks for {family}_{version}"


def test_what_is_newer_than_the_systems_libstdcxx_stays_inside_and_the_rest_is_the_systems(
    wheel, tmp_path
):
    for path in programs(wheel, tmp_path):
        rows = run(["readelf", "--wide", "--dyn-syms", path]).splitlines()
        symbols = [row.split()[4:8] for row in rows if len(row.split()) > 7]
        taken = [name.split("@")[0] for _, _, section, name in symbols if section == "UND"]
        # Templates of headers are weak, and everybody has those that he uses. What bears a version
        # is the system's, copied into a program.
        given = [name for binding, _, _, name in symbols if binding == "GLOBAL" and "@" not in name]
        assert not [name for name in given if re.match(r"_ZN?K?St|_ZT[IVS]N?St", name)]
        if path.name == "libliger_jit.so":
            assert "__cxa_throw" in taken and "_ZNSt9exceptionD2Ev" in taken
        # Torch's libraries have some of it too, which is theirs.
        assert not [name for name in taken if "10filesystem" in name]


def needed(path):
    return re.findall(r"NEEDED.*\[(.+)\]", run(["readelf", "-d", path]))


def test_an_installed_wheel_computes(installed):
    python, packages = installed
    told = run([python, ROOT / "tools/try_wheel.py"])
    assert f"of {packages}/liger_jit/native/{library.BINDING.name}" in told
    assert told.splitlines()[-1] == "works"
    told = run([python, "-m", "liger_jit", "env", "--json"])
    assert "hip" in {one["backend"] for one in json.loads(told)["compilers"]}
    assert "rms_norm" in run([python.parent / "liger-jit", "list", "--json"])


def test_an_installed_wheel_refuses_an_unknown_torch(installed):
    python, packages = installed
    script = "import torch; torch.__version__ = '2.99.0'; import liger_jit"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=packages)
    assert done.returncode == 1
    there = library.minor_of(torch.__version__)
    assert f"{packages}/liger_jit/native has bindings for torch {there}." in done.stderr


def test_a_source_archive_holds_all_that_a_build_needs(tmp_path):
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--skip-dependency-check"]
    run([*build, "--outdir", tmp_path, ROOT])
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("base", "cache", "runtime", "autotune", "ops", "templates", "torch_bindings")
    needs = [path for one in (*folders, "cmake", "python") for path in (ROOT / one).rglob("*.*")]
    needs = {str(path.relative_to(ROOT)) for path in needs if path.suffix not in (".pyc", ".so")}
    assert needs | {"CMakeLists.txt", "pyproject.toml", "README.md"} <= held
    made_here = re.compile(r"(\.venv|build|dist)(/|$)|.*\.so$")
    assert not [name for name in held if made_here.match(name)]
