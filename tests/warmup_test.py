"""`liger_jit.warmup`: after it a step compiles and tunes nothing."""

import json
import os
import subprocess
import sys

import liger_jit
import pytest
import torch
from liger_jit.warmup import meta_replay, prepare


def counters(*names):
    found = liger_jit.stats()["counters"]
    return [found[name] for name in names]


def specs(size, device="meta"):
    x = torch.empty(6, size, device=device, requires_grad=True)
    return [("rms_norm", {"x": x, "weight": torch.empty(size, device=device)})]


def test_specs_are_compiled_forward_and_backward_and_not_again():
    first = liger_jit.warmup(specs(72), device="cpu", progress=False)
    assert first["units"] >= 2
    before = counters("compiled")
    x = torch.randn(6, 72, requires_grad=True)
    liger_jit.functional.rms_norm(x, torch.ones(72)).sum().backward()
    assert counters("compiled") == before
    assert liger_jit.warmup(specs(72, "cpu"), device="cpu", progress=False)["units"] >= 2
    assert counters("compiled") == before


def test_what_others_could_not_compile_is_not_told():
    prepare(meta_replay(specs(88)), "gfx90a")  # fails where there is no hipRTC
    assert liger_jit.warmup(specs(88), device="cpu", progress=False)["units"] >= 2


def test_a_patched_model_is_ready_for_its_first_step():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=83,
        hidden_size=24,
        intermediate_size=44,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = transformers.LlamaForCausalLM(config).train()
    handle = liger_jit.patch(model)
    assert liger_jit.warmup(handle, batch=2, tokens=16, progress=False)["units"] >= 4
    before = counters("compiled", "tuned")
    ids = torch.randint(0, 83, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    assert counters("compiled", "tuned") == before


def test_what_is_neither_model_nor_specs_is_refused():
    with pytest.raises(TypeError, match="Linear is not patched"):
        liger_jit.warmup(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="not int"):
        liger_jit.warmup(3)


def test_a_config_alone_is_enough(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=89,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    config.save_pretrained(tmp_path)
    made = liger_jit.warmup(
        tmp_path / "config.json", 2, 16, device="cpu", progress=False, dtype=torch.float32
    )
    assert made["units"] >= 4
    model = transformers.LlamaForCausalLM(config).train()
    [before] = counters("compiled")
    liger_jit.patch(model)
    [patched] = counters("compiled")
    assert patched == before
    ids = torch.randint(0, 89, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    assert counters("compiled") == [patched]


def test_a_path_of_nothing_and_of_something_else_are_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        liger_jit.warmup(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no config of a causal language model"):
        liger_jit.warmup(str(tmp_path))


UNTUNED_FIRST = """
import json, torch, liger_jit
from liger_jit.library import native
from liger_jit.warmup import meta_replay, prepare

def tuned():
    return liger_jit.stats()["counters"]["tuned"]

def step():
    x = torch.linspace(-1, 1, 8192 * 72, device="cuda").view(8192, 72).requires_grad_()
    y = liger_jit.functional.rms_norm(x, torch.ones(72, device="cuda"))
    y.sum().backward()
    return [*y.flatten().tolist(), *x.grad.flatten().tolist()]

x = torch.empty(8192, 72, device="meta", requires_grad=True)
weight = torch.empty(72, device="meta")
prepare(meta_replay([("rms_norm", {"x": x, "weight": weight})]), "device:cuda:0")
first, tuned_at_first = step(), tuned()
assert native()._wait() == []
second = step()
print(json.dumps([tuned_at_first, tuned(), first == second]))
"""


def test_a_first_step_waits_for_no_candidate_and_a_later_one_is_tuned(cuda, tmp_path):
    """One compiling thread, which is not through before the first step is."""
    variables = {"LIGER_JIT_CACHE": str(tmp_path), "LIGER_JIT_AUTOTUNE": "first-run"}
    variables |= {"LIGER_JIT_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", UNTUNED_FIRST],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    at_first, later, same = json.loads(done.stdout.splitlines()[-1])
    assert at_first == 0
    assert later > 0
    assert same
