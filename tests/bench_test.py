"""`liger-jit bench`: what it measures, cannot measure and compares. No test asserts a time."""

import json
import math
from pathlib import Path

import pytest
import torch
from liger_jit import functional
from liger_jit.bench.call import Reference
from liger_jit.bench.cases import IGNORE_INDEX, cut_for_cpu, declared
from liger_jit.bench.check import TIMES, changes
from liger_jit.bench.clock import Clock
from liger_jit.bench.floors import floors_ms
from liger_jit.bench.page import page
from liger_jit.bench.peers import Absent, eager, providers_of
from liger_jit.cli import main
from linear_losses import LOSSES
from samples import OPS

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["bench", "--quick", "--device", "cpu"]


def read(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two ops, once for all tests that read."""
    folder = tmp_path_factory.mktemp("bench")
    peers = ["--peers", "eager,liger,aten"]
    files = ["--json", str(folder / "lines.jsonl"), "--html", str(folder / "page.html")]
    assert main([*QUICK, "rms_norm", "swiglu", *peers, *files, "--commit", "abc"]) == 0
    return folder


def test_every_case_has_a_line_for_each_provider(measured):
    lines = [line for line in read(measured / "lines.jsonl") if line["kind"] == "op"]
    asked = {(case.op["name"], case.name) for case in declared(["rms_norm", "swiglu"])}
    found = {(line["op"], line["case"], line["provider"]) for line in lines}
    providers = ("liger_jit", "eager", "liger", "aten")
    assert found == {(*one, name) for one in asked for name in providers}
    for line in lines:
        assert line["commit"] == "abc"
        assert line["device"] and line["torch"] and line["copy_gb_per_s"] > 0
        if "absent" not in line:
            for name in ("forward_ms", "forward_backward_ms"):
                assert line[name] > 0
                assert line[f"floor_{name}"] > 0
            assert 0 < line["error"] < 1e-2  # bfloat16 keeps 8 bits


def test_cases_for_a_cpu_are_small_and_come_once_in_each_dtype():
    whole = declared([])
    cut = cut_for_cpu(whole)
    assert {case.op["name"] for case in cut} == {case.op["name"] for case in whole}
    keys = [(case.op["name"], case.dtype, *case.sizes.values(), case.ignored) for case in cut]
    assert all(max(case.sizes.values()) <= 4096 and case.rows <= 256 for case in cut)
    dtypes = {name: {key[1] for key in keys if key[0] == name} for name, *_ in keys}
    assert all(found == {"f32", "bf16"} for found in dtypes.values())
    softmax = [key for key in keys if key[0] == "softmax"]
    assert len(softmax) == len(set(softmax)) == 4  # of three cases two become one


def test_the_host_is_timed_once_for_an_op(measured):
    lines = [line for line in read(measured / "lines.jsonl") if line["kind"] == "host"]
    ours = [line for line in lines if line["provider"] == "liger_jit"]
    assert {line["op"] for line in ours} == {"rms_norm", "swiglu"} and len(ours) == 2
    for line in ours:
        for name in ("forward_us", "forward_backward_us", "forward_backward_one_thread_us"):
            assert line[name] > 0


def test_what_is_absent_says_why(measured):
    lines = read(measured / "lines.jsonl")
    absent = {(line["op"], line["provider"]): line.get("absent") for line in lines}
    assert absent["rms_norm", "liger"] == "liger needs a GPU"
    assert "swiglu" in absent["swiglu", "aten"]
    assert absent["rms_norm", "aten"] is None


def test_the_page_shows_figures_and_reasons(measured):
    text = (measured / "page.html").read_text()
    for shown in ("rms_norm, hidden-4096", "liger needs a GPU", "of the floor", "µs forward"):
        assert shown in text


def scaled(lines, factor):
    """As if ours had taken that many times as long."""

    def slowed(line):
        return {name: value * factor if name in TIMES else value for name, value in line.items()}

    return [slowed(line) if line["provider"] == "liger_jit" else line for line in lines]


@pytest.mark.parametrize(("factor", "code"), [(1e-3, 1), (1e3, 0)])
def test_check_is_1_where_ratios_got_worse(measured, tmp_path, capsys, factor, code):
    stored = write(tmp_path / "stored.jsonl", scaled(read(measured / "lines.jsonl"), factor))
    assert main([*QUICK, "swiglu", "--peers", "eager", "--check", stored]) == code
    out = capsys.readouterr().out
    assert ("are worse by more than 10%" in out) == bool(code)
    assert ("forward_backward / eager" in out) == bool(code)


def test_check_allows_a_tenth(measured):
    lines = read(measured / "lines.jsonl")
    assert not any(one.worse for one in changes(scaled(lines, 1.09), lines))
    assert all(one.worse for one in changes(scaled(lines, 1.11), lines))


def test_check_against_another_device_is_2(measured, tmp_path, capsys):
    lines = [{**line, "device": "Abacus"} for line in read(measured / "lines.jsonl")]
    stored = write(tmp_path / "stored.jsonl", lines)
    assert main([*QUICK, "swiglu", "--peers", "eager", "--check", stored]) == 2
    assert "Abacus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rms_nrm"], "rms_norm"),
        (["rms_norm", "--peers", "eagre"], "eager"),
        (["rms_norm", "--check", "/nowhere"], "/nowhere"),
        (["rms_norm", "--train-step", "tiny"], "models"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_allowed(capsys, arguments, told):
    assert main([*QUICK, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_failure_of_ours_is_1_and_the_rest_goes_on(monkeypatch, tmp_path):
    real = functional.swiglu

    def broken(gate, up):
        if gate.device.type == "meta":  # where the floor asks for sizes
            return real(gate, up)
        raise RuntimeError("no such luck\nand more")

    monkeypatch.setattr(functional, "swiglu", broken)
    path = tmp_path / "lines.jsonl"
    assert main([*QUICK, "swiglu", "--peers", "eager", "--json", str(path)]) == 1
    for line in read(path):
        wanted = "RuntimeError: no such luck" if line["provider"] == "liger_jit" else None
        assert line.get("failed") == wanted


def test_errors_tell_right_from_wrong():
    reference = Reference(eager.swiglu, declared(["swiglu"])[0].at_most(8, 64, 8), "cpu")
    assert reference.error(eager.swiglu) < 1e-2
    assert reference.error(eager.geglu) > 3e-2
    assert math.isnan(reference.error(lambda gate, up: eager.swiglu(gate, up) * math.nan))


def test_floors_count_each_byte_once():
    case = declared(["rms_norm"])[0].at_most(8, 64, 8)
    matrix, row = 8 * 64 * 2, 64 * 2
    forward, both = floors_ms(case, Clock("cpu", quick=True), bytes_per_ms=1)
    assert forward == 2 * matrix + row  # reads x and weight, writes y
    # reads dy, x, weight and 8 float32 of statistics, writes dx and dweight
    assert both - forward == 3 * matrix + 2 * row + 8 * 4


def test_floors_are_products_for_linear_layers_alone():
    clock = Clock("cpu", quick=True)
    matrix = 8 * 64 * 4
    (case,) = (case for case in declared(["jsd"]) if case.name == "vocabulary-32768")
    forward, both = floors_ms(case.at_most(8, 64, 8), clock, bytes_per_ms=1)
    assert forward == 2 * matrix + 4  # its `input` meets no weight: reads both, writes a number
    assert both - forward == matrix
    squares = declared(["multi_token_attention"])[0].at_most(8, 64, 8)
    read = sum(value.nbytes for value in squares.values("meta").values())
    assert floors_ms(squares, clock, bytes_per_ms=1)[0] > read


def test_linear_losses_are_also_measured_with_ignored_labels():
    cases = declared(["fused_linear_cross_entropy"])
    plain, ignored = (case.at_most(1000, 16, 8).values("cpu")["target"] for case in cases[:2])
    assert not (plain == IGNORE_INDEX).any()
    assert 0.5 < (ignored == IGNORE_INDEX).float().mean() < 0.7


LINEAR = [name for name in LOSSES if OPS[name]["cases"]]


def test_linear_losses_are_as_exact_as_eager_where_they_are_measured(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert main([*QUICK, *LINEAR, "--peers", "eager", "--json", str(path)]) == 0
    lines = [line for line in read(path) if line["kind"] == "op"]
    asked = {(case.op["name"], case.name) for case in declared(LINEAR)}
    assert {(line["op"], line["case"]) for line in lines} == asked
    for line in lines:
        # Of so few labels all may be ignored, and a mean of none is no number.
        if "60% ignored" not in line["case"]:
            assert line["error"] < 1e-2, line


@pytest.mark.parametrize("op", LINEAR)
def test_linear_losses_have_their_peers(op):
    assert hasattr(eager, op)
    liger = (ROOT / "python/liger_jit/bench/peers/liger.py").read_text()
    assert f"def {op}(" in liger or f"\n{op} = " in liger


def case_of(op, name):
    (found,) = [case for case in declared([op]) if case.name == name]
    return found.at_most(8, 64, 8)


def test_options_of_a_case_reach_those_that_they_are_for():
    kl = case_of("fused_linear_distillation", "llama-1b, kl alone")
    jsd = case_of("fused_linear_distillation", "llama-1b, jsd alone")
    function = functional.fused_linear_distillation
    losses = [case.told(function, {})(**kl.values("cpu")).loss for case in (kl, jsd)]
    assert not torch.isclose(*losses)
    assert Reference(eager.fused_linear_distillation, kl, "cpu").error(function) < 1e-2
    with pytest.raises(Absent, match="no divergence, weight_hard_loss"):
        kl.told(lambda input, weight, teacher_input, teacher_weight, target: None, {})
    # How ours works is nothing to a peer.
    kept = case_of("linear_log_probs", "qwen3-0.6b, logits kept")
    assert kept.told(eager.linear_log_probs, {}) is eager.linear_log_probs
    assert kept.told(functional.linear_log_probs, {}).keywords == {"memory": "fast"}
    names = [one.name for one in providers_of("linear_log_probs", [], "cpu", kept.options)]
    assert names == ["liger_jit"]


def test_a_frozen_head_has_no_gradient_and_no_product():
    clock = Clock("cpu", quick=True)
    made = []
    clock.device_ms = lambda work: made.append(len(work()))
    for name, products in (("qwen3-0.6b", 3), ("qwen3-0.6b, frozen head", 2)):
        case = case_of("linear_log_probs", name)
        assert ("weight" in case.differentiable()) == (products == 3)
        floors_ms(case, clock, bytes_per_ms=1)
        assert made[-2:] == [1, products]


def test_a_constant_is_not_differentiated():
    assert case_of("fused_linear_kto", "llama-1b").differentiable() == ["input", "weight"]


def test_the_first_labels_of_each_sequence_are_ignored():
    ids = case_of("fused_linear_dpo", "llama-1b").values("cpu")["ids"]
    assert (ids[:, :2] == IGNORE_INDEX).all() and not (ids[:, 2:] == IGNORE_INDEX).any()


def test_the_page_draws_memory_against_tokens():
    about = {"device": "d", "torch": "t", "liger_jit": "0", "commit": "c", "date": "today"}
    lines = [
        {"kind": "memory", "op": "loss", "case": "a", "provider": name, "rows": rows, **about}
        | {"forward_backward_peak_mib": rows * factor}
        for name, factor in (("liger_jit", 1.0), ("eager", 9.0))
        for rows in (1024, 2048)
    ]
    text = page(lines)
    assert text.count("<polyline") == 2
    assert "1,024" in text
    assert "18,432 MiB" in text


def test_training_steps_run_in_processes_of_their_own(tmp_path):
    pytest.importorskip("transformers")
    path = tmp_path / "lines.jsonl"
    options = ["--device", "cpu", "--peers", "eager,aten", "--json", str(path)]
    assert main(["bench", "--train-step", "tiny", *options]) == 0
    lines = {line["provider"]: line for line in read(path)}
    assert lines["aten"]["absent"]
    for name in ("liger_jit", "eager"):
        line = lines[name]
        assert line["tokens_per_s"] > 0 and line["step_ms"] > 0 and line["peak_gib"] > 0
        assert line["first_step_empty_cache_s"] > 0 and line["first_step_filled_cache_s"] > 0
    ours, theirs = (torch.tensor(lines[name]["losses"]) for name in ("liger_jit", "eager"))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
    assert (ours.diff() < 0).all()


def test_tables_of_the_readme_are_those_of_the_newest_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from readme_table import README, with_tables

    assert with_tables(README.read_text()) == README.read_text(), "run bench/readme_table.py"
