"""Kernels for the CPU are spread over as many threads as torch has, and give the same bits."""

import os
import subprocess
import sys

CODE = """
import os
import torch
from liger_jit.functional import rms_norm, swiglu

def ticks():
    times = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        times[task] = int(fields[11]) + int(fields[12])
    return times

def both(gate, up, weight):
    leaves = [one.clone().requires_grad_() for one in (gate, up, weight)]
    y = rms_norm(swiglu(leaves[0], leaves[1]), leaves[2])
    return y, *torch.autograd.grad(y.sum(), leaves)

gate, up = torch.randn(2, 1024, 4096)
weight = torch.randn(4096)
torch.set_num_threads(1)
one_thread = both(gate, up, weight)
torch.set_num_threads(2)
for mine, wanted in zip(both(gate, up, weight), one_thread, strict=True):
    assert torch.equal(mine, wanted)
before = ticks()
while sum(ticks().values()) - sum(before.values()) < 60:
    swiglu(gate, up)
busy = [time - before.get(task, 0) for task, time in ticks().items()]
assert sum(time >= 15 for time in busy) >= 2, busy
"""


def test_two_threads_share_the_blocks_and_give_the_bits_of_one():
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
