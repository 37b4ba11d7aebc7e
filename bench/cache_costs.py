"""What a warm cache costs a process that starts: `python bench/cache_costs.py`.

Warms a cache with the kernels of SmolLM2-135M on the CPU, asks build/native/cache_costs for the
cost of one entry, and a new process for the cost of all of them: the model's operators prepared,
found, read, verified and loaded, without the import of torch. Prints one line of JSON.

The program is built by
`cmake -DLIGER_JIT_BENCH=ON build/native && ninja -C build/native cache_costs`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,  # all layers share their kernels
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def start() -> dict:
    """In a process of its own: from a patched model to all of its kernels loaded."""
    sys.path.insert(0, str(ROOT / "python"))
    import torch
    from liger_jit import patch, stats
    from liger_jit.library import native
    from liger_jit.warmup import prepare, wait
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    handle = patch(LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)))
    wait(lambda done, total: None)
    before = stats()["counters"]
    begin = time.perf_counter()
    prepare(handle.meta_calls(2, 64), "cpu")
    wait(lambda done, total: None)
    native()._tune_prepared("cpu")
    spent = time.perf_counter() - begin
    after = stats()["counters"]
    return {
        "all_ms": 1e3 * spent,
        "grown": {name: after[name] - before[name] for name in after},
        "counters": after,
    }


def in_process(folder: str) -> dict:
    environment = {**os.environ, "LIGER_JIT_CACHE": folder, "OMP_NUM_THREADS": "1"}
    environment["LIGER_JIT_AUTOTUNE"] = "off"  # else candidates that lost would be counted as well
    command = [sys.executable, __file__, "start"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_process(folder)
        warm = in_process(folder)
        program = ROOT / "build" / "native" / "cache_costs"
        done = subprocess.run([program, folder], capture_output=True, text=True, check=True)
        print(json.dumps({**json.loads(done.stdout), **warm}))


if __name__ == "__main__":
    print(json.dumps(start())) if sys.argv[1:] == ["start"] else main()
