"""A patched model that is replicated or sharded over ranks trains as the unpatched one does."""

import re

import pytest
import torch
from ranks import launch

pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["gloo", "nccl"])
def told(request, tmp_path_factory):
    ranks = 2
    if request.param == "nccl" and torch.cuda.device_count() < ranks:
        pytest.skip("needs two GPUs in one machine")
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return launch("model_rank.py", folder, request.param, ranks, torchrun=request.param == "nccl")


def test_losses_of_each_rank_are_those_without_the_patch(told):
    for rank, of_rank in enumerate(told):
        for name, one in of_rank.items():
            plain = one["plain"]
            assert max(plain) - min(plain) > 0.05, "the steps changed nothing"
            for when in ("patched", "patched late"):
                assert one[when] == pytest.approx(plain, rel=1e-5), f"rank {rank}: {name}, {when}"
            assert one["launches"] > 0, name


def test_all_of_it_is_patched_before_and_after(told):
    for name, one in told[0].items():
        assert set(one["status"]) == {"patched"}, name
        # The first FSDP takes weights away, so nothing can be proved about them.
        if "flattened" in name:
            reasons = set(one["status late"]) - {"patched"}
            wanted = "FullyShardedDataParallel|sharded away|no norm that takes a sum"
            assert all(re.search(wanted, reason) for reason in reasons), (name, reasons)
        else:
            assert one["status late"] == one["status"], name


def test_verify_says_that_it_needs_whole_weights(told):
    for name, one in told[0].items():
        assert one["verified"] is True, name
        if "replicated" in name:
            assert one["verified late"] is True, name
        else:
            assert "sharded" in one["verified late"], name
