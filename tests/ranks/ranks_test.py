"""Ranks that start cold and tune agree on every pick, compile each kernel once, and lose no bit.

RANKS_ROUNDS=20 repeats each run that often; docs/reliability.md has the figures of one such run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("training_rank.py")
ROUNDS = int(os.environ.get("RANKS_ROUNDS", "2"))
RANKS = 8


def launch(folder, caches, ranks=RANKS, backend="gloo", torchrun=False):
    """What each rank tells, in the order of the ranks."""
    folder.mkdir()
    variables = {
        **os.environ,
        "LIGER_JIT_AUTOTUNE": "first-run",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    program = [str(PROGRAM), str(folder), caches, backend]
    command = [sys.executable, *program, str(ranks)]
    if torchrun:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", *program]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


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
        told = launch(folder, caches, torchrun=caches == "own" and number == 0)
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
    alone = launch(tmp_path / "one", "own", ranks=1)
    together = launch(tmp_path / "two", "own", ranks=2)
    assert together[0]["losses"] == together[1]["losses"] == alone[0]["losses"]
    assert total(alone, "hit_group") == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs in one machine")
@pytest.mark.parametrize("caches", ["own", "shared"])
def test_gpus_under_fsdp_agree_and_compile_each_kernel_once(tmp_path, caches):
    ranks = torch.cuda.device_count()
    losses = set()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        told = launch(folder, caches, ranks, "nccl", torchrun=True)
        losses |= {tuple(rank["losses"]) for rank in told}
        assert len(losses) == 1
        picks_of_all(told)
        units, expired = len(entries(folder)), total(told, "wait_expired")
        assert units <= total(told, "compiled") <= units + expired
        assert total(told, "group_trouble") == 0
