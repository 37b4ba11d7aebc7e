"""Ranks that start cold and tune agree on every pick, compile each kernel once, and lose no bit.

RANKS_ROUNDS=20 repeats each run that often; docs/reliability.md has the figures of one such run.
"""

import os

import pytest
import torch
from ranks import launch

PROGRAM = "training_rank.py"
ROUNDS = int(os.environ.get("RANKS_ROUNDS", "2"))
RANKS = 8


def total(told, counter):
    return sum(rank["counters"][counter] for rank in told)


def picks_of_all(told):
    """The pick of each tune key; fails if two ranks differ."""
    found = {}
    for rank, one in enumerate(told):
        for pick in one["picks"]:
            first = found.setdefault(pick["key"], pick["pick"])
            assert first == pick["pick"], f"rank {rank} uses {pick}, another rank {first}"
    return found


def entries(folder):
    """Names of the kernels in the caches of a run, one for each distinct unit."""
    return {path.name for path in folder.rglob("*.ljk")}


@pytest.mark.parametrize("caches", ["own", "shared"])
def test_cold_tuned_ranks_agree_and_compile_each_kernel_once(tmp_path, caches):
    losses = set()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        told = launch(
            PROGRAM, folder, "gloo", RANKS, caches, torchrun=caches == "own" and number == 0
        )
        losses |= {tuple(rank["losses"]) for rank in told}
        assert len(losses) == 1, f"round {number}: {losses}"
        assert picks_of_all(told), "nothing was tuned, so nothing was agreed"
        assert all(len(rank["picks"]) == len(told[0]["picks"]) for rank in told)
        assert not any(rank["warnings"] for rank in told)
        assert total(told, "group_trouble") == 0
        # A wait that ends in vain is followed by a compile that another rank makes too.
        units, expired = len(entries(folder)), total(told, "wait_expired")
        compiled, tuned = total(told, "compiled"), total(told, "tuned")
        seconds = max(rank["seconds"] for rank in told)
        print(
            f"{caches} {number}: units {units}, compiled {compiled}, tuned {tuned}, "
            f"picks {len(picks_of_all(told))}, expired {expired}, {seconds:.1f} s"
        )
        assert units <= compiled <= units + expired
        # And one that the last rank alone asks for.
        assert tuned <= len(picks_of_all(told)) + 1 + expired
        if caches == "own":
            assert total(told, "hit_group") > 0


def test_losses_are_those_of_a_run_without_a_group(tmp_path):
    alone = launch(PROGRAM, tmp_path / "one", "gloo", 1, "own")
    together = launch(PROGRAM, tmp_path / "two", "gloo", 2, "own")
    assert together[0]["losses"] == together[1]["losses"] == alone[0]["losses"]
    assert total(alone, "hit_group") == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs in one machine")
@pytest.mark.parametrize("caches", ["own", "shared"])
def test_gpus_under_fsdp_agree_and_compile_each_kernel_once(tmp_path, caches):
    ranks = torch.cuda.device_count()
    (alone,) = launch(PROGRAM, tmp_path / "one", "nccl", 1, "own", torchrun=True)
    losses = set()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        told = launch(PROGRAM, folder, "nccl", ranks, caches, torchrun=True)
        losses |= {tuple(rank["losses"]) for rank in told}
        assert len(losses) == 1
        of_one_gpu = [float.fromhex(loss) for loss in alone["losses"]]
        assert [float.fromhex(loss) for loss in told[0]["losses"]] == pytest.approx(of_one_gpu)
        picks_of_all(told)
        units, expired = len(entries(folder)), total(told, "wait_expired")
        assert units <= total(told, "compiled") <= units + expired
        assert total(told, "group_trouble") == 0
