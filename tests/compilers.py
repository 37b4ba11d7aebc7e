"""Compilers that a test needs."""

import pytest
from liger_jit.library import ask


def compiler(backend):
    return next(one for one in ask("_environment")["compilers"] if one["backend"] == backend)


def needs(backend):
    found = compiler(backend)
    if not found["found"]:
        pytest.skip(f"no compiler for {backend}: {found['problem'].splitlines()[0]}")
