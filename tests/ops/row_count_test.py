"""A number of rows that was never met costs a plan, and no source: no unit depends on it.

Run as a program, this file is a process that tunes: it prints what new numbers of rows cost it.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from liger_jit.library import ask
from samples import OPS, PUBLIC, arguments, differentiable_inputs, operator, results


def counted(call):
    """What the call adds to the counters."""
    before = ask("_stats")["counters"]
    call()
    after = ask("_stats")["counters"]
    return {name: after[name] - before[name] for name in before}


def call(op, device, rows):
    values = arguments(op, device, rows=rows)
    if op in PUBLIC:
        results(operator(op), values, differentiable_inputs(op, values))
    else:
        operator(op)(**values)


def cost_of_new_rows(op, device, known, new):
    call(op, device, known)

    def all_new():
        for rows in new:
            call(op, device, rows)

    return counted(all_new)


def shapes(op, rows):
    values = arguments(op, "meta", rows=rows).values()
    return [value.shape for value in values if isinstance(value, torch.Tensor)]


WITH_ROWS = [op for op in OPS if shapes(op, 8) != shapes(op, 9)]


@pytest.mark.parametrize("op", WITH_ROWS)
def test_new_numbers_of_rows_expand_and_hash_no_source(device, op):
    # Of each op its own, for one may call another.
    known = 200 + 100 * list(OPS).index(op)
    new = range(known + 1, known + 5)
    first = counted(lambda: call(op, device, known))
    cost = cost_of_new_rows(op, device, known, new)
    # Not for each: an op that splits its rows meets lengths again. One that is made of torch's own
    # functions alone has none.
    assert cost["plans"] > 0 or first["plans"] == 0
    assert cost["units_expanded"] == 0
    assert cost["compiled"] == 0


@pytest.mark.parametrize("op", ["rms_norm", "cross_entropy", "fused_linear_cross_entropy", "rope"])
def test_a_process_that_tunes_asks_for_nothing_again(tmp_path, op):
    environment = {
        **os.environ,
        "LIGER_JIT_CACHE": str(tmp_path),
        "LIGER_JIT_AUTOTUNE": "first-run",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, __file__, op]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout.splitlines()[-1])
    assert cost["plans"] >= 10
    for name in ("units_expanded", "tuned", "tune_hit", "hit_disk", "miss_disk", "compiled"):
        assert cost[name] == 0, name


if __name__ == "__main__":
    import torch

    # One binary order of magnitude: another one may be tuned for itself.
    print(
        json.dumps(
            cost_of_new_rows(
                sys.argv[1], "cuda" if torch.cuda.is_available() else "cpu", 40, range(41, 51)
            )
        )
    )
