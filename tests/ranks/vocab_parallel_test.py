"""Cross entropy of classes that are spread over two ranks is that of the whole."""

from told import told_by

told = told_by("vocab_parallel_rank.py")


def test_losses_and_gradients_are_those_of_the_whole_logits(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank["calls"]) == 17
        for name, one in of_rank["calls"].items():
            where = f"rank {rank}: {name}: {one}"
            assert one["loss"] < 1e-6, where
            assert one["gradient"] < (3e-3 if "bfloat16" in name else 1e-6), where


def test_the_ranks_tell_each_other_once_and_have_the_same_bits(told):
    first, second = (of_rank["calls"] for of_rank in told)
    for name, one in first.items():
        if name != "compiled":  # there a collective of the graph stands for it
            assert one["collectives"] == second[name]["collectives"] == 1, name
        own_averages = "partition" in name and ", 0.1," in name
        assert (one["bits"] == second[name]["bits"]) != own_averages, name


def test_a_label_outside_is_told_by_all(told):
    for of_rank in told:
        refused = of_rank["refused"]
        assert refused == "NaN" or (
            "element 1 of argument 'target' is 1040; allowed: 0 to 1039" in refused
        ), refused
