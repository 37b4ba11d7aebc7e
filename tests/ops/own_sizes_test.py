"""Sizes that an op declares for itself: of outputs, under torch.compile too, and of its example.

No op of the product has such yet; tests/torch_ops has one, in a library that a process of its own
loads.
"""

import ctypes
import json
from pathlib import Path

import pytest
from fresh_process import run

ROOT = Path(__file__).resolve().parents[2]


def pair_sums():
    """The operator, from the library for the torch that runs."""
    import torch
    from liger_jit import library

    name = library.BINDING.name.replace("liger_jit", "test_ops")
    ctypes.CDLL(str(ROOT / "build" / "native" / name)).register_test_ops()
    return torch.ops.liger_jit_test.pair_sums


def of_real_and_meta_tensors(_):
    import torch

    operator, x = pair_sums(), torch.arange(24.0).view(6, 4)
    sums, both = operator(x)
    assert torch.equal(sums, x[:3].sum(1) + x[3:].sum(1))
    assert both.shape == (3, 9)
    for real, promised in zip((sums, both), operator(x.to("meta")), strict=True):
        assert (promised.shape, promised.stride()) == (real.shape, real.stride())
    with pytest.raises(ValueError, match=r"pair_sums: argument 'x' has shape \[5, 4\]"):
        operator(torch.zeros(5, 4))
    return True


def of_symbols(_):
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    operator, seen = pair_sums(), []
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def step(x):
        sums, both = operator(x * 2)
        return sums.unsqueeze(1) + both, both.shape[0]

    for rows, columns in (6, 4), (10, 4), (8, 7), (20, 30):
        x = torch.randn(rows, columns)
        y, pairs = step(x)
        sums, both = operator(x * 2)
        assert torch.equal(y, sums.unsqueeze(1) + both)
        assert pairs == rows // 2
        seen.append(tuple(y.shape))
    assert counter.frame_count == 1, "sizes were guarded"
    return seen


def of_examples(_):
    from liger_jit import library
    from liger_jit.bench.cases import declared
    from samples import arguments

    pair_sums()
    (case,) = declared(["pair_sums"])
    small = case.at_most(8, 128, 3)
    return {
        "example": [list(arguments("pair_sums", "cpu", **more)["x"].shape) for more in EXAMPLES],
        "case": list(case.values("cpu")["x"].shape),
        "small": list(small.values("cpu")["x"].shape),
        "about": {name: case.about[name] for name in ("rows", "size", "inner", "chosen")},
        "sizes": list(library.example_sizes()),
        "shown": json.loads(library.native()._example("pair_sums", "f32", {"chosen": 4}))[0],
    }


EXAMPLES = ({}, {"chosen": 4}, {"chosen": 4, "rows": 3})


def test_an_output_may_have_a_size_that_is_reckoned_from_an_inputs():
    assert run(of_real_and_meta_tensors, {})[0]


def test_a_reckoned_size_is_a_symbol_under_torch_compile():
    assert run(of_symbols, {})[0] == [(3, 9), (5, 9), (4, 15), (10, 61)]


def test_an_op_may_have_sizes_of_its_own_in_examples_and_in_the_bench():
    found, _ = run(of_examples, {})
    assert found["example"] == [[10, 16], [20, 16], [12, 16]]
    assert found["case"] == [384, 32]
    assert found["small"] == [24, 32]
    assert found["about"] == {"rows": 64, "size": 32, "inner": 64, "chosen": 6}
    assert found["sizes"][:3] == ["rows", "size", "inner"] and "chosen" in found["sizes"]
    assert found["shown"]["shape"] == [4 * 4096, 4096]
