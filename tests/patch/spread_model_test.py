"""Models whose layers are on two GPUs, as `device_map="auto"` lays them out."""

import copy

import accelerate
import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, error, loss_and_gradients

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

FAMILIES = ("Llama", "Qwen3", "Gemma", "Gemma2", "Mixtral")
# A tied head is where the embedding is.
ON_TWO = {
    "model.embed_tokens": 0,
    "model.rotary_emb": 0,
    "model.layers.0": 0,
    "model.layers.1": 1,
    "model.norm": 1,
}


def spread(model):
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    device_map = {**ON_TWO, "lm_head": 0 if tied else 1}
    return accelerate.dispatch_model(model, device_map, main_device=0)


def on_gpu(inputs, device):
    return {name: value.to(device) for name, value in inputs.items()}


def step_of(model, device):
    loss, gradients = loss_and_gradients(model, **on_gpu(batch(), device))
    return loss.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}


def build_one(family):
    settings = {"num_local_experts": 4} if family == "Mixtral" else {}
    return build(family, **settings)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_two_gpus_is_the_one_without_the_patch(family, when, checkpointed):
    plain = build_one(family)
    model = copy.deepcopy(plain)
    if when == "before":
        patch(model)
    plain, model = spread(plain), spread(model)
    if when == "after":
        patch(model)
    if checkpointed:
        for one in (plain, model):
            one.gradient_checkpointing_enable()
    assert_same_step(step_of(model, 0), step_of(plain, 0))
    inputs = on_gpu(batch(), 0)
    with torch.no_grad():
        found, expected = model.eval()(**inputs), plain.eval()(**inputs)
    assert found.logits.device == expected.logits.device
    assert error(found.logits, expected.logits) <= 2e-5
    assert error(found.loss, expected.loss) <= 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_a_gpu_that_is_not_the_current_one(family):
    plain = build_one(family).to("cuda:1")
    model = copy.deepcopy(plain)
    patch(model)
    assert torch.cuda.current_device() == 0
    assert_same_step(step_of(model, 1), step_of(plain, 1))
