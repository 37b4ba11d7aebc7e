"""Compiles in the background: what a step cannot do without comes before what tuning wants."""

import json
import os
import subprocess
import sys
from datetime import datetime

import liger_jit
import pytest
import torch
from liger_jit.compile_ahead import prepare
from liger_jit.meta_calls import MetaCall, replay_of

THREADS = 4
# What a step needs is found bit by bit; no GPU is needed to compile for one.
PROGRAM = """
import json, time, torch
from liger_jit.compile_ahead import prepare
from liger_jit.library import native
from liger_jit.meta_calls import meta_replay

def norm(size):
    x = torch.empty(8192, size, device="meta", requires_grad=True)
    return ("rms_norm", {"x": x, "weight": torch.empty(size, device="meta")})

def replay():
    for size in (512, 520):
        meta_replay([norm(size)])()
        time.sleep(0.7)

prepare(replay, "sm_90a")
assert native()._wait() == []
print(json.dumps(native()._prepared()))
"""


def compiles(folder, autotune, program=PROGRAM):
    """What a program tells, such as names of what was prepared, and (begin, end, key) in seconds of
    each compile."""
    log = folder / f"{autotune}.json"
    variables = {
        "LIGER_JIT_CACHE": str(folder / autotune),
        "LIGER_JIT_AUTOTUNE": autotune,
        "LIGER_JIT_THREADS": str(THREADS),
        "LIGER_JIT_LOG": str(log),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    if "NVRTC" in done.stderr:
        pytest.skip("needs NVRTC")
    assert done.returncode == 0, done.stderr[-3000:]
    spans = []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "compile":
            end = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
            spans.append((end - event["ms"] / 1e3, end, event["key"]))
    return json.loads(done.stdout), spans


def most_at_once(spans):
    slack = 5e-3  # a time is in whole milliseconds
    return max(
        sum(1 for begin, end, _ in spans if begin + slack < moment < end - slack)
        for moment in (begin + 2 * slack for begin, _, _ in spans)
    )


def test_first_candidates_come_first_and_the_others_leave_threads_free(tmp_path):
    names, _ = compiles(tmp_path, "off")
    firsts = {name[2:14] for name in names if name.startswith("a/")}
    _, spans = compiles(tmp_path, "first-run")
    assert len(firsts) == 4
    others = [span for span in spans if span[2] not in firsts]
    assert len(others) > 12
    last_of_first = max(begin for begin, _, key in spans if key in firsts)
    assert min(begin for begin, _, _ in others) > last_of_first
    assert most_at_once(others) <= THREADS // 2


SPARE = """
import json, torch
from liger_jit.compile_ahead import prepare
from liger_jit.library import native
from liger_jit.meta_calls import MetaCall, meta_replay, replay_of

def call(size, spare):
    x = torch.empty(8192, size, device="meta")
    specs = [("rms_norm", {"x": x, "weight": torch.empty(size, device="meta")})]
    return MetaCall("rms_norm", (size,), lambda batch, tokens: meta_replay(specs)(), spare)

found = []
for calls in ([call(512, True)], [call(512, False)], [call(512, True), call(512, False)]):
    prepare(replay_of(calls, 1, 1), "sm_90a")
    assert native()._wait() == []
    found.append(native()._prepared())
print(json.dumps(found))
"""


def test_what_is_spare_is_compiled_and_not_tuned(tmp_path):
    found, _ = compiles(tmp_path, "first-run", SPARE)
    spare, called, both = found
    assert len(spare) == 1 and spare[0].startswith("a/")
    assert len(called) > 4 and spare[0] in called
    assert any(not name.startswith("a/") for name in called)  # the key of its times
    assert both == called


def test_a_patch_tells_what_a_step_falls_back_to():
    pytest.importorskip("transformers")
    from tiny_models import batch, build

    model = build("Qwen3", torch.bfloat16)
    handle = liger_jit.patch(model)
    spare = [(call.op, call.key) for call in handle._calls if call.spare]
    assert {op for op, _ in spare} >= {"rms_norm", "rope"}
    called = [call for call in handle._calls if not call.spare]
    assert {"qk_norm_rope", "rms_norm", "fused_add_rms_norm"} <= {call.op for call in called}
    # The norm of a head is left to the rotation, that of the hidden states is not.
    assert not {(call.op, call.key) for call in called} & set(spare)
    assert torch.isfinite(model(batch()["input_ids"]).logits).all()


def test_the_loss_whose_product_compiles_longest_comes_first():
    order = []
    calls = [
        MetaCall(op, (), lambda *_, op=op: order.append(op), spare)
        for op, spare in [
            ("rms_norm", False),
            ("linear_cross_entropy_each", True),
            ("fused_linear_cross_entropy", False),
        ]
    ]
    prepare(replay_of(calls, 1, 1), "cpu")
    assert order == ["fused_linear_cross_entropy", "rms_norm", "linear_cross_entropy_each"]
