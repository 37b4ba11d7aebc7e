"""The core tests: what must hold with each torch and transformers. `make test` runs all tests with
the newest of both and these with the oldest; `make matrix` runs them with every pair."""

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
    "tests/patch/every_family_test.py",
    "tests/patch/same_training_step_test.py",
    "tests/patch/guard_test.py",
    "tests/patch/loss/loss_head_test.py",
    "tests/patch/loss/loss_outputs_test.py",
    "tests/patch/loss/lazy_logits_test.py",
    "tests/patch/compiled_model_test.py",
    "tests/patch/undo_test.py",
    "tests/ranks/sharded_ops_test.py",
    "tests/ranks/head_test.py",
)


# A worker has a torch of its own in memory.
MOST_WORKERS = 8


def core_command(python: Path | str, results: Path, *options: str) -> list[str]:
    """Runs them with that Python; the JUnit XML goes to `results`."""
    workers = str(min(MOST_WORKERS, len(os.sched_getaffinity(0))))
    runner = [str(python), "-m", "pytest", "-q", "-n", workers]
    return [*runner, f"--junitxml={results}", *options, *CORE]
