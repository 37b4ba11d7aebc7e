"""Whatever the tuner picks on a GPU, a result has the bits of the untuned kernels."""

import hashlib
import json
import os
import subprocess
import sys

# A ragged row, the usual ones, and one that no block holds in registers.
SIZES = [1000, 4096, 20000]
# Rows of logits that a block holds wherever they start, and that take a cluster.
VOCABULARIES = [50257, 128256]


def _bits():
    """{op and size: hash of all outputs and gradients}, and how many searches were made."""
    import torch
    from liger_jit.stats import stats
    from samples import PUBLIC, arguments, differentiable_inputs, operator, results

    found = {}
    heads = [64, 128]
    sizes = {op: heads for op in PUBLIC if "rope" in op or op == "neighborhood_attention"}
    sizes |= {"cross_entropy": SIZES + VOCABULARIES, "multi_token_attention": [100, 256]}
    for op in PUBLIC:
        for size in sizes.get(op, SIZES):
            torch.manual_seed(3)
            values = arguments(op, "cuda", "bf16", rows=300, size=size, inner=16)
            names = differentiable_inputs(op, values)
            digest = hashlib.sha256()
            for name, value in sorted(results(operator(op), values, names).items()):
                digest.update(
                    name.encode() + value.reshape(-1).cpu().view(torch.uint8).numpy().tobytes()
                )
            found[f"{op} {size}"] = digest.hexdigest()
    return {"bits": found, "tuned": stats()["counters"]["tuned"]}


def _process(folder, autotune):
    environment = {
        **os.environ,
        "LIGER_JIT_CACHE": str(folder),
        "LIGER_JIT_AUTOTUNE": autotune,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_tuning_changes_no_bit_on_a_gpu(cuda, tmp_path):
    plain = _process(tmp_path / "off", "off")
    tuned = _process(tmp_path / "tuned", "first-run")
    assert plain["tuned"] == 0 and tuned["tuned"] > 0
    assert plain["bits"] == tuned["bits"]


if __name__ == "__main__":
    print(json.dumps(_bits()))
