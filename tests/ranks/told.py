"""What two ranks of a program tell, as a fixture: on CPUs, and on two GPUs where there are two."""

import pytest
import torch
from ranks import launch


def told_by(program):
    """The fixture `told`, made once for a test file: the answers of PROGRAM's ranks, in order."""

    @pytest.fixture(scope="module", params=["gloo", "nccl"], name="told")
    def told(request, tmp_path_factory):
        backend, ranks = request.param, 2
        if backend == "nccl" and torch.cuda.device_count() < ranks:
            pytest.skip("needs two GPUs in one machine")
        folder = tmp_path_factory.mktemp(backend) / "run"
        return launch(program, folder, backend, ranks, torchrun=backend == "nccl")

    return told
