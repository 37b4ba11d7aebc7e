"""Log-probabilities of classes that are spread over two ranks are those of the whole layer."""

from told import told_by

told = told_by("spread_head_rank.py")

# Logits of up to 20 are rounded to bfloat16 before they are divided by the temperature.
FLOAT32, BFLOAT16 = 2e-6, 1.5e-2
NUMBERS = ("log_probs", "entropy", "dinput", "dweight", "dbias")


def test_numbers_and_gradients_are_those_of_the_whole_layer(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank["calls"]) == 13
        for name, one in of_rank["calls"].items():
            found = {number: one[number] for number in NUMBERS}
            where = f"rank {rank}: {name}: {found}"
            assert max(found.values()) < (BFLOAT16 if "bfloat16" in name else FLOAT32), where


def test_the_ranks_tell_each_other_once_and_have_the_same_bits(told):
    first, second = (of_rank["calls"] for of_rank in told)
    for name, one in first.items():
        if name != "compiled":  # there a collective of the graph stands for it
            assert one["collectives"] == second[name]["collectives"] == 1, name
        for bits in ("bits", "bits of dinput"):
            assert one[bits] == second[name][bits], name


def test_the_function_of_liger_is_that(told):
    for of_rank in told:
        one = of_rank["as in Liger"]
        assert one.pop("alone")
        assert one.pop("dtypes") == ["torch.float32"] * 2
        assert max(one.values()) < FLOAT32, one


def test_an_id_outside_is_told_by_all(told):
    for of_rank in told:
        refused = of_rank["refused"]
        assert refused == "NaN" or (
            "vocab_parallel_log_probs: element 1 of argument 'ids' is 134; allowed: 0 to 133"
            in refused
        ), refused
