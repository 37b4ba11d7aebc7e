"""`liger-jit bench --memory` and its picture: what torch holds on the CPU as tokens grow."""

import json
from pathlib import Path

import pytest
import torch
from liger_jit.bench.cases import declared
from liger_jit.bench.clock import Clock
from liger_jit.bench.cpu_memory import peak_bytes
from liger_jit.bench.memory import TOKENS, linear_losses
from liger_jit.bench.page import page
from liger_jit.cli import main

ROOT = Path(__file__).resolve().parent.parent
LOSSES = ("fused_linear_dpo", "fused_linear_kto", "linear_log_probs")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "lines.jsonl"
    options = ["--peers", "eager", "--device", "cpu", "--json", str(path)]
    assert main(["bench", "--memory", *LOSSES, *options]) == 0
    return [json.loads(text) for text in path.read_text().splitlines()]


def of(lines, op, provider):
    """[(tokens, MiB above the gradients)]"""
    return [
        (
            line["rows"] * line.get("sequences", 1),
            line["forward_backward_peak_mib"] - line["gradients_mib"],
        )
        for line in lines
        if (line["op"], line["provider"]) == (op, provider)
    ]


@pytest.mark.parametrize("op", LOSSES)
def test_what_is_above_our_gradients_stops_growing_with_the_tokens(lines, op):
    tokens, above = zip(*of(lines, op, "liger_jit"))
    assert tokens == tuple(TOKENS["cpu"])
    logits_mib = [count * 1024 * 2 / 2**20 for count in tokens]
    assert above[0] > logits_mib[0] / 2  # a chunk of them is there
    assert above[-1] - above[-2] < (logits_mib[-1] - logits_mib[-2]) / 8


@pytest.mark.parametrize("op", ["fused_linear_dpo", "linear_log_probs"])
def test_eager_holds_the_logits(lines, op):
    tokens, above = zip(*of(lines, op, "eager"))
    for count, mib in zip(tokens, above, strict=True):
        assert mib > 2 * count * 1024 * 4 / 2**20  # in float32, and their gradient
    assert above[-1] == pytest.approx(2 * above[-2], rel=0.01)


def test_every_linear_loss_of_the_registry_is_measured():
    measured = [case.op["name"] for case in linear_losses([])]
    with_heads = {
        case.op["name"]
        for case in declared([])
        if {"input", "weight"} <= case.values("meta").keys()
    }
    assert set(measured) == with_heads and set(LOSSES) <= with_heads
    assert len(measured) == len(with_heads)


def test_an_op_that_is_no_linear_loss_is_refused(capsys):
    assert main(["bench", "--memory", "rms_norm", "--device", "cpu"]) == 2
    assert "'rms_norm' is no linear loss" in capsys.readouterr().err


def test_peaks_on_the_cpu_are_of_what_was_held_at_once():
    kib = torch.ones(256)

    def work():
        first = kib.repeat(1024)  # 1 MiB
        second = first.repeat(2)
        del first
        return second + second

    assert peak_bytes(work) == pytest.approx(4 * 2**20, rel=0.01)


def test_what_is_kept_is_held_beside_the_outputs():
    x = torch.ones(2**18, requires_grad=True)
    kept = Clock("cpu", quick=True).kept_mib(lambda: ((x.exp() + 1).exp(),))
    # Each exp keeps what it gives, and one of these is an output.
    assert kept == pytest.approx(1.0, rel=0.01)


def test_the_page_draws_all_of_them(lines):
    text = page(lines)
    measured = [line for line in lines if "forward_backward_peak_mib" in line]
    curves = {(line["op"], line["provider"]) for line in measured}
    assert text.count("<polyline") == len(curves)
    assert f"{TOKENS['cpu'][-1]:,}" in text


def test_the_picture_has_a_panel_for_each_loss(lines, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from memory_plot import draw, panels_of

    new = [{**line, "op": "fused_linear_new"} for line in lines if line["op"] == LOSSES[0]]
    absent = {"op": "fused_linear_new", "provider": "liger", "absent": "it needs a GPU"}
    panels = panels_of([*lines, *new, absent])
    assert list(panels) == [*LOSSES, "fused_linear_new"]
    for of_op in panels.values():
        providers = {line["provider"] for line in of_op}
        assert providers - {"liger_jit, memory min"} == {"liger_jit", "eager"}
    draw(lines, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="--memory"):
        panels_of([])
