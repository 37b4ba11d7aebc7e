"""A head behind any linear loss, trained by two ranks on halves of a batch, is that of one process
that has it whole. A loss that is declared is tested here."""

import pytest
from linear_losses import LOSSES
from told import told_by

told = told_by("linear_losses_rank.py")


def test_every_loss_was_trained(told):
    assert all(set(of_rank) == set(LOSSES) for of_rank in told)


@pytest.mark.parametrize("op", LOSSES)
def test_gradients_are_those_of_the_whole_batch(told, op):
    for rank, of_rank in enumerate(told):
        for how in ("DDP", "FSDP2"):
            assert of_rank[op][how] < 5e-6, f"rank {rank}, {how}"


@pytest.mark.parametrize("op", LOSSES)
def test_gradients_of_a_share_are_others(told, op):
    assert all(of_rank[op]["alone"] > 1e-3 for of_rank in told)
