"""A policy trained by two ranks, each on half of a batch, is that of one that has it whole."""

from told import told_by

told = told_by("policy_rank.py")


def test_gradients_are_those_of_the_whole_batch(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank) == 8
        for name, difference in of_rank.items():
            assert difference < 2e-6, f"rank {rank}: {name}: {difference}"
