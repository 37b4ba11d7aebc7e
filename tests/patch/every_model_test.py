"""Every causal and multimodal class of transformers: patched, its step is the same.

A fifth of them by default; with TORTURE_LONG=1 each that can be made small.
"""

import os

import pytest
from every_model import CLASSES, small_model, steady_step, step
from liger_jit.patch import patch
from shown import is_seen
from tiny_models import shape_of

LONG = os.environ.get("TORTURE_LONG") == "1"
# What a change of the rules is likeliest to touch.
ALWAYS = ("bloom", "cohere", "glm4", "gpt_oss", "granite", "olmo2", "phi", "qwen3_next")
EACH = sorted(CLASSES)
SOME = [one for i, one in enumerate(EACH) if i % 5 == 0 or one[0] in ALWAYS]


@pytest.mark.parametrize("one", EACH if LONG else SOME, ids=lambda one: one[0])
def test_a_patched_step_is_the_step(one):
    kind, name = one
    try:
        model, (expected, gradients) = small_model(kind, name, steady_step)
    except Exception as error:
        if kind in ALWAYS:
            raise
        pytest.skip(f"no small model: {error}")
    assert is_seen(kind, model, gradients)
    before = shape_of(model)
    handle = patch(model)
    report = handle.report()
    assert any(row.patched for row in report), str(report)
    for row in report:
        assert "failed in the probe" not in row.status, row
    loss, found = step(model)
    assert loss == pytest.approx(expected, rel=2e-5)
    assert found.keys() == gradients.keys()
    # Some gradients are zero but for rounding: biases that a softmax takes out again.
    noise = 1e-6 * max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + noise, name
    handle.unpatch()
    assert {path: set(of) for path, of in shape_of(model).items()} == {
        path: set(of) for path, of in before.items()
    }
    assert step(model)[0] == expected
