"""`liger-jit`: what each command prints, as text and as JSON, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compilers import compiler, needs
from liger_jit.cli import COMMANDS, main
from liger_jit.library import example_sizes, ops

SMALL = ["--size", "48", "--rows", "4"]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"] if command else ["--help"])
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["show"], ["cache", "burn"]])
def test_wrong_usage_is_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_it_runs_as_a_program_of_its_own():
    command = [sys.executable, "-m", "liger_jit", "list", "--json"]
    folder = Path(__file__).parents[2] / "python"
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_list_has_the_public_ops(run, run_json):
    public = {op["name"] for op in ops() if not op["internal"]}
    assert {op["name"] for op in run_json("list")} == public
    assert {op["name"] for op in run_json("list", "--all")} == {op["name"] for op in ops()}
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in public)


@pytest.mark.parametrize("arch", ["cpu", "sm_80", "sm_90a", "gfx90a"])
def test_show_compiles_for_targets_that_are_not_here(run_json, arch):
    needs({"c": "cpu", "s": "cuda", "g": "hip"}[arch[0]])
    answer = run_json("show", "rms_norm", *SMALL, "--arch", arch)
    (kernel,) = answer["kernels"]
    assert "LIGER_ENTRY(RmsNormForward" in kernel["unit"]
    assert ".hidden = 48" in kernel["unit"]
    assert kernel["compile_ms"] > 0
    if arch != "cpu":
        assert kernel["registers"] > 0
        assert kernel["spill_bytes"] == 0


def test_show_takes_the_sizes_that_examples_have(run_json):
    def unit(*sizes):
        (kernel,) = run_json("show", "linear_reference_", *sizes, "--no-compile")["kernels"]
        return kernel["unit"]

    usual = {name: size["usual"] for name, size in example_sizes().items()}
    assert f".hidden = {usual['inner']}" in unit()
    assert f".classes = {usual['size']}" in unit()
    given = unit("--inner", "24", "--size", "72")
    assert ".hidden = 24" in given
    assert ".classes = 72" in given


def test_show_prints_a_source_that_needs_nothing_else(run, tmp_path):
    needs("cpu")
    code, out, _ = run("show", "swiglu", *SMALL, "--dtype", "fp32", "--expanded", "--no-compile")
    assert code == 0
    source = tmp_path / "swiglu.cpp"
    source.write_text(out)
    command = [compiler("cpu")["path"], "-std=c++20", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "rms_nrm"], "did you mean rms_norm?"),
        (["show", "rms_norm", "--arch", "sm_ninety"], "sm_ninety"),
        (["show", "rms_norm", "--dtype", "int8"], "int8"),
        (["compile", "--config", "/nowhere", "--arch", "cpu"], "/nowhere"),
    ],
)
def test_a_wrong_name_is_2_and_says_what_is_allowed(run, arguments, told):
    code, out, err = run(*arguments)
    assert code == 2
    assert told in err
    assert not out


def test_an_architecture_that_the_compiler_does_not_know_is_1(run):
    needs("cuda")
    code, _, err = run("show", "rms_norm", *SMALL, "--arch", "sm_20")
    assert code == 1
    assert "sm_20" in err


def test_compile_fills_the_cache_once(run_json, config):
    needs("cpu")
    arguments = ["compile", "--config", str(config), "--arch", "cpu", "--tokens", "8"]
    first = run_json(*arguments)
    assert first["modules"]["rms_norm"] == 3
    (target,) = first["targets"]
    assert target["failed"] == []
    assert target["kernels"] >= 4
    # Kernels that do not depend on the model's sizes may be there from another test.
    assert 0 < target["compiled"] <= target["kernels"]
    (again,) = run_json(*arguments)["targets"]
    assert again["kernels"] == target["kernels"]
    assert again["compiled"] == 0


def test_compile_takes_several_targets(run, config):
    needs("cuda")
    needs("hip")
    arguments = ["--arch", "sm_90a,gfx90a", "--tokens", "8", "--dtype", "fp16"]
    code, out, err = run("compile", "--config", str(config.parent), *arguments)
    assert code == 0, err
    assert "sm_90a" in out
    assert "gfx90a" in out


def test_compile_of_a_failing_target_is_1(run, config):
    needs("cuda")
    code, _, err = run("compile", "--config", str(config), "--arch", "sm_20", "--tokens", "8")
    assert code == 1
    assert "sm_20" in err


def test_env_names_what_was_found(run, run_json):
    found = run_json("env")
    assert found["versions"]["torch"]
    assert {one["backend"] for one in found["compilers"]} == {"cpu", "cuda", "hip"}
    assert {one["name"] for one in found["variables"]} >= {"LIGER_JIT_CACHE", "LIGER_JIT_CXX"}
    code, out, _ = run("env")
    assert code == 0
    assert found["cache"]["folder"] in out
