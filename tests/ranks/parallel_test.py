"""Modules and patched models under tensor parallelism train as the whole ones do."""

import pytest
from told import told_by

pytest.importorskip("transformers")

CLOSE = 1e-5


told = told_by("parallel_rank.py")


def assert_same_step(one, where):
    assert "trouble" not in one, f"{where}: {one['trouble']}"
    assert one["loss"] <= CLOSE, f"{where}: {one['loss']}"
    assert one["learned"] > 0.01, where
    assert one["next loss"] <= CLOSE, f"{where}: {one['next loss']}"
    assert len(one["gradients"]) > 0, where
    for name, error in one["gradients"].items():
        assert error <= CLOSE, f"{where}: {name}: {error}"


def test_modules_under_sequence_and_tensor_parallelism_train_as_whole_ones(told):
    for rank, of_rank in enumerate(told):
        assert len(of_rank["modules"]) == 9
        for name, one in of_rank["modules"].items():
            assert_same_step(one, f"rank {rank}: {name}")
            assert one["launches"] > 0, name


WAYS = (
    "sequence_parallel",
    "projections_alone",
    "head_alone",
    "plan_of_transformers",
    "with_layers_sharded",
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("loss", ["", ", real logits", ", own loss"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_patched_model_spread_over_ranks_trains_as_a_whole_one(told, family, way, loss, when):
    for rank, of_rank in enumerate(told):
        of_way = of_rank["models"][f"{family}, {way}"]
        where = f"rank {rank}: {family}, {way}, "
        assert_same_step(of_way["unpatched"], where + "unpatched")
        assert of_way["unpatched"]["launches"] == 0
        name = f"patched {when}{loss}"
        assert_same_step(of_way[name], where + name)
        assert of_way[name]["launches"] > 0, where + name


@pytest.mark.parametrize("loss", ["", ", real logits", ", own loss"])
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_model_that_is_loaded_by_its_own_plan_trains_as_a_whole_one(told, family, loss):
    for rank, of_rank in enumerate(told):
        of_family = of_rank["loaded"][family]
        where = f"rank {rank}: {family}, "
        assert_same_step(of_family["unpatched"], where + "unpatched")
        assert_same_step(of_family[f"patched after{loss}"], where + f"patched{loss}")
        assert of_family[f"patched after{loss}"]["launches"] > 0
