"""transformers' experts' implementation "liger_jit": models train as with their own loop."""

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.transformers.experts_implementation import register_experts_implementation
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


@pytest.fixture(autouse=True)
def registered():
    register_experts_implementation()
    yield
    ALL_EXPERTS_FUNCTIONS._global_mapping.pop("liger_jit", None)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_a_step_is_that_of_the_models_own_loop(model_type):
    model, inputs = tiny(model_type)
    model.set_experts_implementation("eager")
    loss, gradients = step_of(model, inputs)
    model.set_experts_implementation("liger_jit")
    found, ours = step_of(model, inputs)
    assert found == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).norm() <= 2e-4 * gradient.norm() + 1e-6, name


def test_a_gate_that_is_not_known_is_refused():
    model, inputs = tiny("mixtral")
    model.set_experts_implementation("liger_jit")
    for module in model.modules():
        if hasattr(module, "act_fn"):
            module.act_fn = torch.nn.Tanh()
    with pytest.raises(ValueError, match="MixtralExperts: no known gate .*; allowed: another"):
        model(**inputs)
