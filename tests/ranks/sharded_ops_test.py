"""An op of sharded tensors gives what it gives of whole ones, and works on what each rank has."""

import os
import subprocess
import sys

import pytest
from told import told_by

CLOSE = 1e-6  # of a sum over ranks in float32, which is made in another order


# Gradients that are sums over a sequence's rows: their order is fixed by how many sequences a rank
# has.
SUMS_OF_SEQUENCES = ("scale", "shift")

told = told_by("sharded_ops_rank.py")


def agrees(result):
    """The same bits, but for a sum over ranks."""
    error, placements = result
    return error <= CLOSE if "P" in placements else error == 0


# Here and below: "S1" is sharded in dimension 1, "R" whole on each rank, "P" a sum to be made.
FITTING = {
    "rms_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "layer_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "fused_add_rms_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "fused_add_layer_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "rms_norm_add": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "layer_norm_add": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "gated_rms_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "modulated_rms_norm": {"whole": "R", "batch": "S0"},  # of split tokens scale's is a sum
    "modulated_rms_norm of each row": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "modulated_rms_norm, one for all": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "poly_norm": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "dyt": {"whole": "R", "batch": "S0", "tokens": "S1"},
    "relu_squared": {"whole": "R", "batch": "S0", "tokens": "S1", "columns": "S2"},
    "swiglu": {"whole": "R", "batch": "S0", "tokens": "S1", "columns": "S2"},
    "geglu": {"whole": "R", "batch": "S0", "tokens": "S1", "columns": "S2"},
    "rope": {"whole": "R", "batch": "S0", "tokens": "S2", "heads": "S1"},
    "mrope": {"whole": "R", "batch": "S0", "tokens": "S2", "heads": "S1"},
    "complex_rope": {"whole": "R", "batch": "S0", "tokens": "S2", "heads": "S1"},
    "qk_norm_rope": {"whole": "R", "batch": "S0", "tokens": "S2", "heads": "S1"},
    "full_qk_norm_rope": {"whole": "R", "batch": "S0", "tokens": "S2"},
    "rope, heads third": {"whole": "R", "batch": "S0", "tokens": "S1"},
}


PARAMETERS = ("weight", "bias", "alpha", "gamma", "beta")


def fitting(name):
    family = next((one for one in (name, *FITTING) if one in FITTING and name.startswith(one)), "")
    return FITTING.get(family, {})


def test_every_op_takes_its_tensors_however_they_are_placed(told):
    for rank, of_rank in enumerate(told):
        assert {"rms_norm", "rms_norm_backward", "cross_entropy", "scale"} <= set(
            of_rank["registry"]
        )
        for name, of_op in of_rank["registry"].items():
            for arrival, outputs in of_op.items():
                if arrival == "sharding":
                    continue
                for number, output in enumerate(outputs):
                    where = f"rank {rank}: {name}, {arrival}, output {number}: {output}"
                    assert agrees(output), where


def test_an_op_that_is_declared_whole_is_computed_whole(told):
    for name, of_op in told[0]["registry"].items():
        placed = {one[1] for key, outputs in of_op.items() if key != "sharding" for one in outputs}
        # Of each that can be split some arrival is: the examples have one batch, and more heads.
        assert (placed == {"R"}) == (of_op["sharding"] == "whole"), (name, placed)


def test_results_and_gradients_of_functions_are_those_of_whole_tensors(told):
    for rank, of_rank in enumerate(told):
        for name, plans in of_rank["functions"].items():
            assert plans
            for plan, one in plans.items():
                results = {f"output {i}": each for i, each in enumerate(one["outputs"])}
                results.update(one["gradients"])
                for part, result in results.items():
                    close = part in SUMS_OF_SEQUENCES and result[0] <= CLOSE
                    assert close or agrees(result), f"rank {rank}: {name}, {plan}, {part}: {result}"


def test_what_fits_stays_where_it_is_and_needs_no_communication(told):
    for name, plans in told[0]["functions"].items():
        for plan, placement in fitting(name).items():
            one = plans[plan]
            assert one["collectives"] == 0, (name, plan)
            assert {placed for _, placed in one["outputs"]} == {placement}, (name, plan)
            for part, (_, placed) in one["gradients"].items():
                is_parameter = part.startswith(PARAMETERS)
                wanted = "P" if is_parameter and placement != "R" else placement
                assert placed == wanted, (name, plan, part)


def test_rows_that_are_split_within_are_brought_together(told):
    for name in ("rms_norm", "layer_norm", "fused_add_rms_norm", "rope", "qk_norm_rope"):
        one = told[0]["functions"][name]["columns"]
        assert one["collectives"] > 0, name
        assert {placed for _, placed in one["outputs"]} <= {"R", "S0", "S1"}, name


def test_ranks_may_have_different_numbers_of_rows(told):
    for of_rank in told:
        for number, placement in (("3", "S0"), ("1", "R")):
            one = of_rank["uneven"][number]
            assert one["outputs"] == [[0.0, placement]]
            assert all(agrees(each) for each in one["gradients"].values()), (number, one)


def test_a_mesh_of_two_dimensions_may_split_two_dimensions(told):
    for shape in ("(2, 1)", "(1, 2)"):
        one = told[0]["two dimensions"][shape]
        assert one["outputs"] == [[0.0, "S0 S1"]]
        assert one["gradients"]["x"] == [0.0, "S0 S1"]
        assert one["gradients"]["weight"][1] == "P P" and agrees(one["gradients"]["weight"])
        assert one["collectives"] == 0


def test_a_call_with_other_options_is_not_taken_for_the_one_before(told):
    for of_rank in told:
        assert len(of_rank["options"]) == 16
        for error in of_rank["options"]:
            assert isinstance(error, float) and error <= CLOSE, error  # a wrong shape is text


def test_a_compiled_call_works_on_the_rows_of_each_rank(told):
    for of_rank in told:
        one = of_rank["compiled"]
        assert one["outputs"] == [[0.0, "S1"]] and one["collectives"] == 0
        assert one["gradients"]["x"] == [0.0, "S1"]
        assert one["gradients"]["weight"][1] == "P" and agrees(one["gradients"]["weight"])


BOTH = """
def check():
    import torch
    from torch.distributed.tensor import distribute_tensor, init_device_mesh, Shard
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0,
                                         world_size=1)
    x = torch.randn(4, 16)
    mesh = init_device_mesh("cpu", (1,))
    y = liger_jit.functional.rms_norm(distribute_tensor(x, mesh, [Shard(0)]))
    assert y.placements == (Shard(0),)
    assert torch.equal(y.full_tensor(), liger_jit.functional.rms_norm(x))
"""


@pytest.mark.parametrize(
    "order",
    [
        "import liger_jit, torch.distributed.tensor",
        "import torch.distributed.tensor, liger_jit",
        "import liger_jit, torch.distributed.tensor.parallel",
    ],
)
def test_either_import_may_come_first(order):
    in_process(f"{order}\n{BOTH}\ncheck()")


def test_sharded_tensors_are_not_imported_for_who_does_not_use_them():
    in_process(
        """
import sys, torch
before = "torch.distributed.tensor" in sys.modules
import liger_jit.functional
assert ("torch.distributed.tensor" in sys.modules) == before
finders = len(sys.meta_path)
import torch.distributed.tensor
assert len(sys.meta_path) == finders - (not before)
"""
    )


def test_a_torch_that_registers_otherwise_is_told_of_and_still_imported():
    in_process(
        """
import sys, types, warnings
import liger_jit
sys.modules["torch.distributed.tensor.experimental"] = types.ModuleType("experimental")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import torch.distributed.tensor
assert torch.distributed.tensor.DTensor
messages = [str(one.message) for one in told if "liger_jit" in str(one.message)]
assert len(messages) == 1 and "DTensor" in messages[0] and torch.__version__ in messages[0], told
"""
    )


def in_process(code):
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
