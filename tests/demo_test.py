"""The demo from end to end, on a random model of a few thousand parameters."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN_FIELDS = {"losses", "tokens_per_s", "peak_memory_mib", "first_step_s"}
pytest.importorskip("matplotlib")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=52,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def demo(model, folder, **variables):
    command = [sys.executable, ROOT / "examples" / "finetune.py", "--model", model, "--steps", "2"]
    command += ["--batch", "2", "--tokens", "24", "--device", "cpu", "--output", folder / "out"]
    known = {"PYTHONPATH": str(ROOT / "python"), "LIGER_JIT_CACHE": str(folder / "cache")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "LIGER_JIT_AUTOTUNE": "first-run", **known, **variables},
    )


def test_demo_compares_and_a_second_run_compiles_nothing(model, tmp_path):
    first = demo(model, tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the losses agree" in first.stdout
    result = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert set(result) == {
        "model",
        "device",
        "unpatched",
        "patched",
        "max_abs_loss_diff",
        "kernels",
    }
    for name in ("unpatched", "patched"):
        run = result[name]
        assert set(run) == RUN_FIELDS
        assert len(run["losses"]) == 2
        assert all(math.isfinite(loss) and loss > 0 for loss in run["losses"])
        assert run["tokens_per_s"] > 0
        assert run["peak_memory_mib"] > 0
        assert run["first_step_s"] > 0
    assert result["max_abs_loss_diff"] <= 1e-3
    assert result["kernels"]["compiled"] > 0
    assert result["kernels"]["tuned"] > 0
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")

    second = demo(model, tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    kernels = json.loads((tmp_path / "out" / "demo.json").read_text())["kernels"]
    assert kernels["compiled"] == 0
    assert kernels["tuned"] == 0
    assert kernels["from_cache"] > 0


def test_demo_without_a_compiler_says_what_is_missing(model, tmp_path):
    done = demo(model, tmp_path, LIGER_JIT_CXX="/nowhere/c++")
    assert done.returncode == 1
    assert "patched" in done.stdout
    assert "/nowhere/c++" in done.stdout.replace("\n", "")


def test_losses_that_differ_are_exit_code_1(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from comparison import Comparison, Run

    old, new = Run(8, losses=[2.0, 1.0]), Run(8, losses=[2.0, 1.0])
    assert Comparison("m", "cpu", old, new).agrees
    for wrong in (1.1, math.nan):
        new.losses[1] = wrong
        compared = Comparison("m", "cpu", old, new)
        assert not compared.agrees
        assert "DIFFER" in compared.verdict()
