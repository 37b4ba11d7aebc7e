"""A second process finds everything in the cache of the first: it compiles and tunes nothing.

Run as a program, this file is that process: it calls every op and prints what happened.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest


def process(cache, autotune, ops):
    """{"counters", "bits"} of a new process that calls these ops with that cache."""
    environment = {
        **os.environ,
        "LIGER_JIT_CACHE": str(cache),
        "LIGER_JIT_AUTOTUNE": autotune,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, __file__, *ops]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing(tmp_path):
    first = process(tmp_path, "off", [])
    second = process(tmp_path, "off", [])
    assert first["counters"]["compiled"] > 0
    assert second["counters"]["compiled"] == 0
    assert second["counters"]["hit_disk"] > 0
    assert second["bits"] == first["bits"]


@pytest.mark.parametrize("op", ["rms_norm", "cross_entropy"])
def test_a_second_process_tunes_nothing_and_tuning_changes_no_bit(tmp_path, op):
    first = process(tmp_path, "first-run", [op])
    second = process(tmp_path, "first-run", [op])
    assert second["counters"]["compiled"] == 0
    assert second["counters"]["tuned"] == 0
    assert second["bits"] == first["bits"]
    untuned = process(tmp_path, "off", [op])
    assert untuned["bits"] == first["bits"]


def _call(ops):
    import torch
    from liger_jit.library import ask
    from samples import PUBLIC, arguments, differentiable_inputs, operator, results

    torch.manual_seed(20)
    digest = hashlib.sha256()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for op in ops or PUBLIC:
        values = arguments(op, device)
        names = differentiable_inputs(op, values)
        for value in results(operator(op), values, names).values():
            digest.update(value.double().cpu().numpy().tobytes())
    return {"counters": ask("_stats")["counters"], "bits": digest.hexdigest()}


if __name__ == "__main__":
    print(json.dumps(_call(sys.argv[1:])))
