"""A tiled MLP whose weights are sharded by FSDP2 has the gradients of one process."""

from told import told_by

told = told_by("sharded_mlp_rank.py")


def test_gradients_are_those_of_one_process_with_one_shard(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank) == 4
        for name, errors in of_rank.items():
            assert len(errors) == (8 if "True" in name else 6), errors
            for parameter, error in errors.items():
                # Sums of a batch in halves and in shards, in float32.
                assert error < 1e-5, f"rank {rank}: {name}, {parameter}: {error}"
