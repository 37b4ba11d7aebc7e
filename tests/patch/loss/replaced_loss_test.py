"""A function that stands in the place of Liger's for the fused loss is the one that is called."""

from functools import partial

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.transformers import functional
from tiny_models import assert_same_step, batch, build, loss_and_gradients

NAME = "liger_fused_linear_cross_entropy"


@pytest.fixture
def scaled(monkeypatch):
    """As axolotl does it."""
    monkeypatch.setattr(
        functional, NAME, partial(getattr(functional, NAME), use_token_scaling=True)
    )


@pytest.mark.parametrize("more", [{}, {"num_items_in_batch": 7}], ids=["mean", "items"])
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_its_option_is_in_the_loss(family, more, scaled, monkeypatch):
    settings = {"final_logit_softcapping": 5.0} if family == "Gemma2" else {}
    model = build(family, **settings)
    patch(model)
    found = loss_and_gradients(model, **batch(), **more)
    monkeypatch.undo()
    plain = loss_and_gradients(model, **batch(), **more)
    expected = loss_and_gradients(model, **batch(), **more, use_token_scaling=True)
    assert_same_step(found, expected)
    assert (found[0] - plain[0]).abs() > 1e-2


def test_what_a_forward_asks_for_is_passed(monkeypatch):
    model, asked = build(), []
    own = getattr(functional, NAME)

    def spy(*args, **named):
        asked.append(named)
        return own(*args, **named)

    monkeypatch.setattr(functional, NAME, spy)
    patch(model)
    asked.clear()  # of what a patch compiles ahead
    expected = model(**batch()).loss
    output = model(**batch(), return_token_accuracy=True)
    assert torch.equal(output.loss, expected)
    assert output.token_accuracy is not None
    assert "use_token_scaling" not in asked[0] and "return_token_accuracy" not in asked[0]
    assert asked[1]["return_token_accuracy"] is True


def test_in_a_compiled_model(scaled, monkeypatch):
    model = build()
    patch(model)
    found = torch.compile(model, backend="eager")(**batch()).loss
    monkeypatch.undo()
    torch.testing.assert_close(found, model(**batch(), use_token_scaling=True).loss)
    torch._dynamo.reset()
