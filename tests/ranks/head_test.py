"""A head that is spread over ranks is left alone: losses and gradients are the unpatched ones."""

import pytest
from told import told_by

pytest.importorskip("transformers")


told = told_by("head_rank.py")


def test_losses_and_gradients_are_those_without_the_patch(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank["ways"]) == 3 + len(of_rank["plans"])
        for name, one in of_rank["ways"].items():
            for when in {"patched", "patched late"}.intersection(one):
                where = f"rank {rank}: {name}, {when}"
                assert one[when]["loss"] == pytest.approx(one["plain"]["loss"], rel=1e-5), where
                wanted = one["plain"]["gradients"]
                assert one[when]["gradients"] == pytest.approx(wanted, rel=1e-4), where


def test_the_head_is_called_for_its_logits_and_the_report_says_so(told):
    for of_rank in told:
        assert of_rank["calls"] == 0
        for name, one in of_rank["ways"].items():
            if one.get("hooked"):
                assert one["status"] == "patched", name
                continue
            wanted = "already replaced on the instance" if "plan" in name else "spread over ranks"
            assert wanted in one["status"], name
