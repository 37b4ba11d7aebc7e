"""A patched model with experts, replicated or sharded over ranks, trains as without a patch."""

import pytest
from told import told_by

pytest.importorskip("transformers")

told = told_by("expert_models_rank.py")


def test_losses_are_those_without_the_patch(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank) == 3
        for way, (plain, patched) in of_rank.items():
            where = f"rank {rank}: {way}"
            losses = plain["losses"]
            assert max(losses) - min(losses) > 0.05, f"{where}: the steps changed nothing"
            rel = 1e-2 if "bfloat16" in plain["dtype"] else 1e-5
            assert patched["losses"] == pytest.approx(losses, rel=rel), where
            assert patched["rows"] == 2, where
            assert patched["own"] == 0, where
