"""A patched model that is replicated or sharded over ranks trains as the unpatched one does."""

import re

import pytest
from told import told_by

pytest.importorskip("transformers")


told = told_by("model_rank.py")


def test_losses_of_each_rank_are_those_without_the_patch(told):
    for rank, of_rank in enumerate(told):
        for name, one in of_rank.items():
            plain = one["plain"]["losses"]
            assert max(plain) - min(plain) > 0.05, "the steps changed nothing"
            assert one["plain"]["launches"] == 0
            for when in ("patched", "patched late"):
                where = f"rank {rank}: {name}, {when}"
                assert one[when]["losses"] == pytest.approx(plain, rel=1e-5), where
                assert one[when]["launches"] > 0, where


def test_the_loss_is_fused_unless_the_head_is_sharded_apart(told):
    for name, one in told[0].items():
        steps = len(one["plain"]["losses"])
        apart = "head_apart" in name and not name.startswith("Qwen3")  # which is tied
        assert one["patched"]["fused"] == (0 if apart else steps), name
        # A weight of the first FSDP that keeps its parameters is flat, and nobody's matrix.
        flat = "flattened_" in name
        assert one["patched late"]["fused"] == (0 if apart or flat else steps), name


def test_all_of_it_is_patched_before_and_what_can_be_seen_after(told):
    for name, one in told[0].items():
        early, late = one["patched"]["status"], one["patched late"]["status"]
        assert set(early) == {"patched"}, name
        # The first FSDP takes weights away, so nothing can be proved about them.
        if "flattened" in name:
            reasons = set(late) - {"patched"}
            wanted = "FullyShardedDataParallel|sharded away|no norm that takes a sum"
            assert reasons, name
            assert all(re.search(wanted, reason) for reason in reasons), (name, reasons)
        else:
            assert late == early, name


def test_verify_says_that_it_needs_whole_weights(told):
    for name, one in told[0].items():
        assert one["patched"]["verified"] is True, name
        if "replicated" in name:
            assert one["patched late"]["verified"] is True, name
        else:
            assert "sharded" in one["patched late"]["verified"], name
