"""Finds and loads the native library and has it register every op with torch: on import."""

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
    """The native library is absent or was built for another torch."""


def built_with() -> str:
    """The torch that the library was built with, or `unknown`."""
    try:
        return (NATIVE_FOLDER / "torch_version.txt").read_text().strip()
    except OSError:
        return "unknown"


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def load() -> None:
    """Raises LibraryMissing that says where it looked and what to do."""
    if not LIBRARY.is_file():
        raise LibraryMissing(
            f"liger_jit: the native library is not at {LIBRARY}. Install the package "
            "(`pip install .` in its source folder), or run `make build` there to use it in place."
        )
    built = built_with()
    # torch's C++ interface changes between its minor releases.
    if built != "unknown" and _release(built) != _release(torch.__version__):
        raise LibraryMissing(
            f"liger_jit: {LIBRARY} was built with torch {built}, but torch {torch.__version__} is "
            "running. Install liger_jit again with this torch: "
            "`pip install --no-build-isolation --force-reinstall --no-deps .`"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as trouble:
        raise LibraryMissing(
            f"liger_jit: {LIBRARY} (built with torch {built}) cannot be loaded under torch "
            f"{torch.__version__}: {trouble}"
        ) from trouble
    _register()
    _mark_compiled_graphs()


def _register() -> None:
    """After loading, because the library's own parts find each other while it is loaded."""
    register = ctypes.CDLL(str(LIBRARY)).liger_jit_register
    register.restype = ctypes.c_char_p
    if problem := register():
        raise LibraryMissing(
            f"liger_jit: {LIBRARY} cannot be used: {problem.decode()}. Build or install it anew."
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


def ops() -> list[dict[str, Any]]:
    """Every op of the registry: name, doc, schema, kernels, inputs, outputs, cases."""
    return ask("_ops")


load()
# Before the interpreter takes its modules apart, which is slow while compilers have the cores.
atexit.register(lambda: native()._end_prefetches())
