"""`liger-jit tune`: what it measures stands in the cache, and goes along in a bundle."""

import pytest
import torch
from compilers import needs
from own_command import command_json


def liger_jit(cache, *arguments, **variables):
    variables = {"LIGER_JIT_CACHE": str(cache), "LIGER_JIT_AUTOTUNE": "first-run", **variables}
    return command_json(*arguments, **variables)


def test_the_cpu_is_tuned_once_and_a_bundle_takes_the_times_along(config, tmp_path):
    needs("cpu")
    model = ["--config", str(config), "--tokens", "8", "--dtype", "fp32"]
    first = liger_jit(tmp_path / "one", "tune", *model, "--device", "cpu")
    assert first["tuned"] > 0
    assert first["compiled"] > 0
    bundle = tmp_path / "tuned.ljb"
    liger_jit(tmp_path / "one", "cache", "export", *model, "--arch", "cpu", "-o", str(bundle))
    second = liger_jit(
        tmp_path / "two", "tune", *model, "--device", "cpu", LIGER_JIT_CACHE_READONLY=str(bundle)
    )
    assert (second["tuned"], second["compiled"]) == (0, 0)
    assert second["from_record"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_what_to_do(run, config):
    code, _, err = run("tune", "--config", str(config))
    assert code == 1
    assert "--device cpu" in err


def test_wrong_settings_are_2(run, config):
    code, _, err = run("tune", "--config", str(config), "--device", "toaster")
    assert code == 2
    assert "cuda:1" in err
    # conftest.py turns tuning off.
    code, _, err = run("tune", "--config", str(config), "--device", "cpu")
    assert code == 2
    assert "LIGER_JIT_AUTOTUNE" in err
