"""A build finds the torch that the library will run with, also where a build is isolated."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path):
    """A virtual environment of its own: (its Python, its folder of packages)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    return tmp_path / "venv/bin/python", packages


def with_torch(folder):
    package = folder / "torch"
    (package / "include").mkdir(parents=True)
    (package / "version.py").write_text("__version__ = '2.11.0'\n")
    return folder


def find(python, **variables):
    kept = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [python, ROOT / "cmake/find_torch.py"],
        env={**kept, "HOME": "/nonexistent", "PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip(), done.stderr


def test_what_python_imports_comes_first(environment, tmp_path):
    python, packages = environment
    with_torch(packages)
    assert find(python)[:2] == (0, str(packages))
    nearer = with_torch(tmp_path / "nearer")
    assert find(python, PYTHONPATH=str(nearer))[:2] == (0, str(nearer))


# What pip puts before a build that it isolates: its own packages, and away with the environment's.
ISOLATED = """
import sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
"""


def test_pip_hides_the_packages_and_runs_the_environments_python(environment, tmp_path):
    python, packages = environment
    with_torch(packages)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "sitecustomize.py").write_text(ISOLATED)
    assert find(python, PYTHONPATH=str(overlay))[:2] == (0, str(packages))


def test_a_build_in_an_environment_of_its_own_asks_the_one_that_is_activated(environment, tmp_path):
    python, _ = environment
    activated = tmp_path / "activated"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = with_torch(activated / "lib" / version / "site-packages")
    assert find(python, VIRTUAL_ENV=str(activated))[:2] == (0, str(packages))


def test_none_is_an_error_that_says_where_it_looked(environment, tmp_path):
    python, packages = environment
    code, found, said = find(python)
    assert (code, found) == (1, "")
    assert str(packages) in said
    # And cmake says what to do.
    done = subprocess.run(
        [
            Path(sys.executable).parent / "cmake",
            "-S",
            ROOT,
            "-B",
            tmp_path / "build",
            f"-DPython_EXECUTABLE={python}",
        ],
        env={**os.environ, "VIRTUAL_ENV": "", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert str(packages) in said
    assert "Install that first (pip install torch) and then liger_jit" in said
