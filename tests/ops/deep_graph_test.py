"""torch.compile takes models of many layers, whichever operator comes last."""

import os
import subprocess
import sys
from pathlib import Path

LAYERS = 24
# As post-norm models do, each layer reads the stream twice; the activation comes at the end alone.
MODEL = f"""
import torch
from liger_jit import functional as F

@torch.compile(fullgraph=True)
def model(x, weight):
    for _ in range({LAYERS}):
        x = F.rms_norm_add(F.rms_norm(x, weight), x, weight)
    return F.swiglu(x, x)

x = torch.randn(3, 8, requires_grad=True)
model(x, torch.ones(8, requires_grad=True)).sum().backward()
assert x.grad.abs().sum() > 0
"""


def test_an_operator_that_comes_last_costs_no_more_than_one_that_comes_first(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", MODEL]
    subprocess.run(command, env=environment, cwd=Path(__file__).parent, timeout=120, check=True)
