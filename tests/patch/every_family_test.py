"""Causal models of transformers, whatever they are made of: patched, their step is the same.

A few by default; with TORTURE_LONG=1 every one that can be made small, which takes ten minutes.
"""

import os

import pytest
import torch
import transformers
from family_models import SMALL, VOCABULARY
from liger_jit.patch import patch
from tiny_models import loss_and_gradients
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

LONG = os.environ.get("TORTURE_LONG") == "1"
FEW = ("bloom", "glm4", "gpt_oss", "granite", "olmo2", "phi", "qwen3_next")
MOST_PARAMETERS = 20_000_000


def small_model(kind):
    """A model of this kind without dropout, its norms and biases far from their first values."""
    configuration = transformers.CONFIG_MAPPING[kind]
    usual = configuration()
    settings = {name: value for name, value in SMALL.items() if is_number(usual, name)}
    kinds_of_layers = getattr(usual, "layer_types", None)
    if isinstance(kinds_of_layers, (list, tuple)):
        settings["layer_types"] = [kinds_of_layers[0], kinds_of_layers[-1]]
    torch.manual_seed(1)
    with torch.device("meta"):
        model_class = getattr(transformers, CLASSES[kind])
        size = sum(p.numel() for p in model_class(configuration(**settings)).parameters())
    assert size <= MOST_PARAMETERS, f"{size} parameters"
    model = model_class(configuration(**settings)).float().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def is_number(configuration, name):
    value = getattr(configuration, name, None)
    # A padding token some releases only give where it is set.
    return name == "pad_token_id" or (isinstance(value, int) and not isinstance(value, bool))


def step(model):
    torch.manual_seed(7)
    ids = torch.randint(3, VOCABULARY, (2, 16))
    labels = ids.clone()
    labels[0, :4] = -100
    loss, gradients = loss_and_gradients(model, input_ids=ids, labels=labels)
    return loss.item(), gradients


@pytest.mark.parametrize("kind", sorted(CLASSES) if LONG else FEW)
def test_a_patched_step_is_the_step(kind):
    try:
        model = small_model(kind)
        expected, gradients = step(model)
        if step(model)[0] != expected:
            raise ValueError("its step is another one each time")
    except Exception as error:
        if kind in FEW:
            raise
        pytest.skip(f"no small model: {error}")
    handle = patch(model)
    assert any(row.patched for row in handle.report()), str(handle.report())
    loss, found = step(model)
    assert loss == pytest.approx(expected, rel=2e-5)
    assert found.keys() == gradients.keys()
    # Some gradients are zero but for rounding: biases that a softmax takes out again.
    noise = 1e-6 * max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + noise, name
    handle.unpatch()
    assert step(model)[0] == expected
