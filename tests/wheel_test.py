"""The wheel: built once, installed into an empty folder, and used from there."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("scikit_build_core")
pytest.importorskip("build")

ONE_OP = """
import torch, liger_jit
from liger_jit import library
assert str(library.LIBRARY).startswith(FOLDER), library.LIBRARY
x = torch.randn(3, 8, requires_grad=True)
y = liger_jit.functional.rms_norm(x, torch.ones(8))
y.sum().backward()
torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (8,), eps=1e-6))
assert x.grad is not None
assert "hip" in {one["backend"] for one in library.ask("_environment")["compilers"]}
print("works")
"""


def run(command, **variables):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
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


def test_wheel_serves_every_python_and_holds_what_is_needed(wheel):
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("libliger_jit.so", "liger-hiprtc-helper", "torch_version.txt"):
        assert names.count(f"liger_jit/native/{part}") == 1
    sources = (ROOT / "python" / "liger_jit").rglob("*.py")
    assert {str(path.relative_to(ROOT / "python")) for path in sources} <= set(names)
    for name in names:
        assert name.split("/")[0] in ("liger_jit", wheel.name.split("-py3")[0] + ".dist-info")


def test_library_does_not_link_python_and_finds_torch_beside_it(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    told = run(["readelf", "-d", tmp_path / "liger_jit/native/libliger_jit.so"])
    needed = [line for line in told.splitlines() if "NEEDED" in line]
    assert any("libtorch_cpu" in line for line in needed)
    absent = ("python", "cuda", "hip", "nvrtc", "hiredis")  # the last is inside the library
    assert not any(word in line for line in needed for word in absent)
    assert "$ORIGIN/../../torch/lib" in told


# What manylinux_2_28 lets a library ask for, of families that grew since.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}


def programs(wheel, folder):
    """The libraries and programs of a wheel, unpacked."""
    zipfile.ZipFile(wheel).extractall(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]


def test_the_wheel_asks_for_no_newer_system_than_manylinux_2_28(wheel, tmp_path):
    found = programs(wheel, tmp_path)
    assert {"libliger_jit.so", "liger-hiprtc-helper"} <= {path.name for path in found}
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


def test_an_installed_wheel_computes(wheel, tmp_path):
    folder = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", folder, wheel])
    script = f"FOLDER = {str(folder)!r}\n{ONE_OP}"
    # PYTHONPATH goes before what is installed in the environment, so before the source tree.
    out = run([sys.executable, "-c", script], PYTHONPATH=str(folder))
    assert "works" in out
    command = [folder / "bin" / "liger-jit", "list", "--json"]
    assert "rms_norm" in run(command, PYTHONPATH=str(folder))
