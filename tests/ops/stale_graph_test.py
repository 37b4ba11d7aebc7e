"""torch.compile keeps graphs on disk: one that was made with another build is never taken."""

import os
import subprocess

import pytest
import torch
from liger_jit.library import BINDING, LIBRARY, native
from samples import operator
from torch._dynamo.utils import counters


@pytest.fixture
def hits():
    """How many graphs a compile of an op and its backward takes from the disk."""

    def compiled() -> int:
        torch._dynamo.reset()
        counters.clear()
        step = torch.compile(lambda x, w: operator("rms_norm")(x, w)[0].sin(), fullgraph=True)
        y = step(torch.randn(5, 48, requires_grad=True), torch.ones(48, requires_grad=True))
        y.sum().backward()
        return counters["aot_autograd"]["autograd_cache_hit"]

    return compiled


def test_a_graph_of_another_build_is_compiled_anew(hits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert (hits(), hits()) == (0, 1)
    build = native()._build()
    tag = torch.compiler.config.cache_key_tag
    assert build in tag
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", tag.replace(build, "another"))
    assert hits() == 0


def build_id(library):
    notes = subprocess.run(
        ["readelf", "-n", os.fspath(library)], capture_output=True, text=True, check=True
    ).stdout
    return "build-id:" + notes.split("Build ID:")[1].split()[0]


def test_the_build_is_that_of_the_libraries_in_use():
    assert native()._build() == f"{build_id(LIBRARY)} {build_id(BINDING)}"
