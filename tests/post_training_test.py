"""`liger-jit bench --post-training`: whole steps, whose losses are alike whoever computes them."""

import importlib
import json
import sys
from importlib.util import find_spec

import pytest
import torch
from liger_jit.bench.page import page
from liger_jit.bench.post_training.settings import SETTINGS, STEPS
from liger_jit.cli import main

PEERS = ("eager", "trl", "aten")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """{(step, provider): its line}; each a process of its own, once for all tests."""
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("post_training") / "lines.jsonl"
    options = ["--device", "cpu", "--peers", ",".join(PEERS), "--json", str(path)]
    assert main(["bench", "--post-training", *STEPS, *options]) == 0
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return {(line["step"], line["provider"]): line for line in found}


@pytest.mark.parametrize("step", STEPS)
def test_steps_of_ours_and_of_others_have_the_same_losses(lines, step):
    eager = lines[step, "eager"]
    expected = torch.tensor(eager["losses"])
    assert (expected.diff() < 0).all()  # it learns, so later losses tell of gradients
    for provider in ("liger_jit", "trl"):
        line = lines[step, provider]
        if provider == "trl" and find_spec("trl") is None:
            assert line["absent"] == "No module named 'trl'; to have it: pip install trl"
            continue
        torch.testing.assert_close(torch.tensor(line["losses"]), expected, atol=1e-3, rtol=1e-2)
        for figure in ("tokens_per_s", "step_ms", "peak_gib", "first_step_s"):
            assert line[figure] > 0
    assert lines[step, "aten"]["absent"] == "aten has no loss of these steps"


@pytest.mark.parametrize("step", STEPS)
def test_tokens_are_those_of_prompts_and_completions(lines, step):
    setting, line = SETTINGS["cpu"][step], lines[step, "eager"]
    assert line["tokens_per_s"] * line["step_ms"] / 1e3 == pytest.approx(setting.tokens, rel=1e-3)


def test_the_page_shows_each_step(lines):
    text = page(list(lines.values()))
    assert all(f"{step}, tiny" in text for step in STEPS)
    assert text.count(" tokens/s, ") == sum("tokens_per_s" in line for line in lines.values())


@pytest.mark.parametrize("other", [["rms_norm"], ["--train-step", "tiny"], ["--memory"]])
def test_a_step_is_measured_alone(capsys, other):
    assert main(["bench", *other, "--post-training", "dpo"]) == 2
    assert "away" in capsys.readouterr().err


def test_a_stand_in_takes_the_name_of_what_is_absent_alone(monkeypatch):
    pytest.importorskip("transformers")
    from liger_jit.bench import stand_ins

    absent = "a_module_that_nobody_has"
    names = {absent: (f"{absent}.part",), "json": ("json.part",)}
    monkeypatch.setattr(stand_ins, "NAMES", names)
    try:
        stand_ins.take_names_of_absent()
        part = importlib.import_module(f"{absent}.part")
        assert isinstance(part.Anything, type) and not hasattr(part.Anything, "anything")
        assert not hasattr(part, "__version__")
        assert sys.modules["json"] is json and "json.part" not in sys.modules
    finally:
        for name in (absent, f"{absent}.part"):
            sys.modules.pop(name, None)
