"""A kernel is started while the one before it ends, and still reads what that one wrote."""

import pytest
import torch
from liger_jit import functional

REPETITIONS = 20


def chain(x, weight, wait):
    """Norms and element-wise kernels, one upon the other; each is many blocks and a ragged tail."""
    for _ in range(REPETITIONS):
        x = functional.rms_norm(x, weight)
        wait()
        x = functional.swiglu(x, x)
        wait()
        x = functional.layer_norm(x, weight, weight)
        wait()
    return x


@pytest.mark.parametrize("rows", [3, 4099])
def test_each_kernel_waits_for_what_it_reads(cuda, rows):
    x, weight = torch.randn(rows, 1024, device=cuda), torch.rand(1024, device=cuda)
    one_by_one = chain(x, weight, torch.cuda.synchronize)
    assert torch.equal(chain(x, weight, lambda: None), one_by_one)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(x, weight, lambda: None)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, one_by_one)


def test_memory_that_the_kernel_before_still_reads_is_not_written_early(cuda):
    """Torch gives the memory of a tensor that is gone to the next one on the stream."""
    weight = torch.rand(4096, device=cuda)
    rows = [torch.full((2053, 4096), float(i + 1), device=cuda) for i in range(REPETITIONS)]
    sums = [functional.rms_norm(functional.rms_norm(x, weight), weight) for x in rows]
    wanted = functional.rms_norm(functional.rms_norm(rows[0], weight), weight)
    torch.cuda.synchronize()
    for found in sums:  # the norm takes the scale away
        torch.testing.assert_close(found, wanted)
