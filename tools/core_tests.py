"""Which tests run when. `make test` runs all with the newest torch and transformers, and CORE, what
must hold with each, with the oldest too. `make matrix` runs CORE with every pair, and
`make test-quick` runs QUICK."""

from __future__ import annotations

import os
from pathlib import Path

CORE = (
    "tests/packaging/registration_test.py",
    "tests/ops/every_op_test.py",
    "tests/ops/overwriting_test.py",
    "tests/ops/devices_test.py",
    "tests/ops/loss/cross_entropy_limits_test.py",
    "tests/ops/linear_loss/fused_linear_cross_entropy_test.py",
    "tests/ops/norm/rms_norm_test.py",
    "tests/ops/rope/rope_test.py",
    "tests/ops/modules_test.py",
    "tests/patch/families_test.py::test_a_patched_step_of_each_type_is_the_step",
    "tests/patch/fused_roles_test.py",
    "tests/patch/every_model_test.py",
    "tests/patch/same_training_step_test.py",
    "tests/patch/guard_test.py",
    "tests/patch/loss/loss_head_test.py",
    "tests/patch/loss/loss_outputs_test.py",
    "tests/patch/loss/lazy_logits_test.py",
    "tests/patch/compiled_model_test.py",
    "tests/patch/undo_test.py",
    "tests/patch/rules/causal_mask_test.py::test_what_is_compiled_is_not_exported",
    "tests/patch/rules/stacked_experts_test.py::test_it_compiles_without_breaks",
    "tests/patch/rules/stacked_experts_test.py::test_a_whole_model_compiles_without_breaks",
    "tests/ranks/sharded_ops_test.py",
    "tests/ranks/head_test.py",
)

# What to know after each change: every op against its reference on small sizes, the step of one
# family, the guard, and that the tree is what its documents say.
QUICK = (
    "tests/layers_test.py",
    "tests/docs_test.py",
    "tests/packaging/registration_test.py",
    "tests/ops/every_op_test.py",
    "tests/patch/same_training_step_test.py",
    "tests/patch/guard_test.py",
)

# A worker has a torch of its own in memory.
MOST_WORKERS = 8


def cores() -> int:
    return len(os.sched_getaffinity(0))


def core_command(python: Path | str, results: Path, *options: str) -> list[str]:
    """Runs them with that Python; the JUnit XML goes to `results`."""
    workers = str(min(MOST_WORKERS, cores()))
    runner = [str(python), "-m", "pytest", "-q", "-n", workers]
    return [*runner, f"--junitxml={results}", *options, *CORE]
