"""Experts that are spread over two ranks compute what they do in one process."""

from told import told_by

told = told_by("expert_parallel_rank.py")


def test_outputs_and_gradients_are_those_of_one_process(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank["calls"]) == 6
        for name, errors in of_rank["calls"].items():
            limit = 3e-2 if "bfloat16" in name else 2e-6
            assert max(errors) < limit, f"rank {rank}: {name}: {errors}"


def test_another_number_of_experts_is_refused(told):
    for of_rank in told:
        assert "'num_experts' is 3; allowed: 6" in of_rank["refused"]
