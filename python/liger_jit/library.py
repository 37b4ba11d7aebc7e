"""Finds and loads the native library and has it register every op with torch: on import.

The core is one library for all torches. Beside it lies a small one, a binding, for each minor
release of torch; the one that fits is loaded and brings the core.
"""

from __future__ import annotations

import atexit
import ctypes
import json
from pathlib import Path
from typing import Any

import torch

NATIVE_FOLDER = Path(__file__).resolve().parent / "native"
LIBRARY = NATIVE_FOLDER / "libliger_jit.so"


class LibraryMissing(ImportError):
    """The native library is absent, or has no binding for this torch."""


def minor_of(version: str) -> str:
    """`2.11` of `2.11.0+cu130`."""
    return ".".join(version.split("+")[0].split(".")[:2])


def bindings() -> dict[str, Path]:
    """The bindings that are there, by minor release of torch, oldest first."""
    name = f"{LIBRARY.stem}_torch"
    paths = [path for path in NATIVE_FOLDER.glob(f"{name}[0-9]*.[0-9]*.so") if path.is_file()]
    found = {path.stem.removeprefix(name): path for path in paths}
    return dict(sorted(found.items(), key=lambda one: [int(part) for part in one[0].split(".")]))


def load() -> Path:
    """The binding, loaded. Raises LibraryMissing that says where it looked and what to do."""
    if not LIBRARY.is_file():
        raise LibraryMissing(
            f"liger_jit: the native library is not at {LIBRARY}. Install the package "
            "(`pip install .` in its source folder), or run `make build` there to use it in place."
        )
    there = bindings()
    binding = there.get(minor_of(torch.__version__))
    if binding is None:
        raise LibraryMissing(
            f"liger_jit: torch {torch.__version__} is running, and {NATIVE_FOLDER} has bindings "
            f"for torch {', '.join(there) or '(none)'}. Install one of these, or build for the "
            "torch that runs: `pip install --no-deps --force-reinstall .` in the source folder of "
            "liger_jit."
        )
    try:
        torch.ops.load_library(str(binding))
    except OSError as trouble:
        # Some releases of torch put an error of their own before the loader's.
        said = str(trouble.__cause__ or trouble)
        raise LibraryMissing(_why_not_loaded(binding, said)) from trouble
    _register(binding)
    _mark_compiled_graphs()
    return binding


def _why_not_loaded(binding: Path, trouble: str) -> str:
    """The core names its build in a version of its symbols, and the loader compares."""
    if "version `LIGER_JIT_" in trouble:
        return (
            f"liger_jit: {binding} and {LIBRARY} are of two builds ({trouble}). "
            "Install or build both anew."
        )
    return f"liger_jit: {binding} cannot be loaded under torch {torch.__version__}: {trouble}"


def _register(binding: Path) -> None:
    """After loading, because the library's own parts find each other while it is loaded."""
    register = ctypes.CDLL(str(binding)).liger_jit_register
    register.restype = ctypes.c_char_p
    if problem := register():
        raise LibraryMissing(
            f"liger_jit: {binding} cannot be used: {problem.decode()}. Build or install it anew."
        )


def _mark_compiled_graphs() -> None:
    """torch.compile keeps graphs on disk, and its key does not see what an operator means: a graph
    with our operators in it serves the build of the library that it was compiled with, no other."""
    torch.compiler.config.cache_key_tag += f" liger_jit {native()._build()}"


def native() -> Any:
    """The namespace of the library's operators."""
    return torch.ops.liger_jit


def ask(operator: str, *arguments: Any) -> Any:
    """Calls an operator that answers with JSON text."""
    return json.loads(getattr(native(), operator)(*arguments))


def built_with() -> str:
    """The release of torch whose headers the binding was compiled with."""
    return native()._built_with()


def ops() -> list[dict[str, Any]]:
    """Every op of the registry: name, doc, schema, kernels, inputs, outputs, sizes, cases."""
    return ask("_ops")


def example_sizes() -> dict[str, dict[str, Any]]:
    """What examples of ops may be asked for, by name: what it is where nobody says, and what it
    means. First come the sizes that all ops have; of a name that several add, the first."""
    found: dict[str, dict[str, Any]] = {}
    for op in ops():
        for size in op["sizes"]:
            found.setdefault(size["name"], size)
    return found


BINDING = load()
# Before the interpreter takes its modules apart, which is slow while compilers have the cores.
atexit.register(lambda: native()._end_background_compiles())
