"""A class that answers for a name with another thing than its module holds: what it answers counts,
whether it came before the patch or after it."""

import copy

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.patch import patch
from tiny_models import error
from torch import nn


class Factor:
    """What the classes of a test multiply by: nothing until the test sets it."""

    now = 1.0

    def times(self, found):
        if found is None:  # a bias
            return None if self.now == 1.0 else torch.tensor(0.01)
        return found * self.now if isinstance(found, torch.Tensor) else Times(self, found)


class Times:
    """A function, and no module."""

    def __init__(self, factor, function):
        self.factor, self.function = factor, function

    def __call__(self, x):
        return self.function(x) * self.factor.now


def of_what_is_not_found(name, factor):
    def lookup(module, asked):
        found = nn.Module.__getattr__(module, asked)
        return factor.times(found) if asked == name else found

    return {"__getattr__": lookup}


def of_all(name, factor):
    def lookup(module, asked):
        if asked == name:
            return factor.times(nn.Module.__getattr__(module, name))
        return object.__getattribute__(module, asked)

    return {"__getattribute__": lookup}


def of_one(name, factor):
    return {name: property(lambda module: factor.times(nn.Module.__getattr__(module, name)))}


def give_another_class(modules, ways):
    for module in modules:
        module.__class__ = type(type(module).__name__, (type(module),), dict(ways))


def modules_of(model, kind):
    return [module for module in model.modules() if type(module).__name__ == kind]


def assert_same_gradients(found, expected):
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert error(found[1][name], gradient) <= 2e-5, name


# Of a model, the class of its modules and a name that these hold.
HELD = [
    ("llama", "LlamaMLP", "act_fn"),
    ("llama", "LlamaMLP", "down_proj"),
    ("llama", "LlamaRMSNorm", "weight"),
    ("llama", "LlamaDecoderLayer", "post_attention_layernorm"),
    ("qwen3", "Qwen3Attention", "q_norm"),
    ("qwen3_moe", "Qwen3MoeExperts", "down_proj"),
    ("qwen3_moe", "Qwen3MoeExperts", "act_fn"),
    ("gpt2", "GPT2MLP", "act"),
    ("gpt2", "LayerNorm", "bias"),
    ("llama", "Linear", "weight"),
    ("llama", "Linear", "bias"),
]


@pytest.mark.parametrize("answer", [of_what_is_not_found, of_all, of_one])
@pytest.mark.parametrize("model_type, kind, name", HELD)
@pytest.mark.parametrize("when", ["class before", "class after", "in the class after"])
def test_what_a_class_answers_counts(when, model_type, kind, name, answer, monkeypatch):
    model, inputs = tiny(model_type)
    reference, factor = copy.deepcopy(model), Factor()
    ways = answer(name, factor)
    give_another_class(modules_of(reference, kind), ways)
    if when == "class before":
        give_another_class(modules_of(model, kind), ways)
    patch(model)
    step_of(model, inputs)
    if when == "class after":
        give_another_class(modules_of(model, kind), ways)
    factor.now = 1.5
    if when == "in the class after":
        for way, function in ways.items():
            monkeypatch.setattr(type(modules_of(model, kind)[0]), way, function, raising=False)
    found = step_of(model, inputs)
    monkeypatch.undo()
    assert_same_gradients(found, step_of(reference, inputs))


def test_experts_ask_the_config_that_their_class_answers_with(monkeypatch):
    model, inputs = tiny("qwen3_moe")
    own, other = model.config, copy.deepcopy(model.config)
    other._experts_implementation = "another"
    experts = modules_of(model, "Qwen3MoeExperts")
    handle = patch(model)
    monkeypatch.setattr(type(experts[0]), "config", property(lambda module: other), raising=False)
    with pytest.raises(Exception, match="another"):
        step_of(model, inputs)
    assert own is not other and {row.own_calls for row in handle.report()} >= {1}


class Gathered(dict):
    """Parameters that are made when they are asked for, as DeepSpeed's are of their parts."""

    def __getitem__(self, name):
        found = super().__getitem__(name)
        return found * 1.5 if name == "weight" else found


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_head_has_the_weight_that_its_own_dict_of_parameters_gives(when):
    model, inputs = tiny("llama")
    expected, patched = copy.deepcopy(model), copy.deepcopy(model)
    expected.lm_head._parameters = Gathered(expected.lm_head._parameters)
    if when == "after":
        patch(patched)
    patched.lm_head._parameters = Gathered(patched.lm_head._parameters)
    if when == "before":
        patch(patched)
    loss = step_of(expected, inputs)[0]
    assert step_of(patched, inputs)[0] == pytest.approx(loss, rel=1e-5)
    assert step_of(model, inputs)[0] != pytest.approx(loss, rel=1e-3)


def test_a_head_that_is_a_function_is_left_alone_and_nothing_else():
    model, inputs = tiny("llama")
    expected = step_of(model, inputs)
    head = model.lm_head
    model.get_output_embeddings = lambda: lambda states: head(states)
    report = patch(model).report()
    assert_same_gradients(step_of(model, inputs), expected)
    *others, of_head = report
    assert of_head.status == "the head is function, not a plain nn.Linear"
    assert sum(row.patched for row in others) > 5


def test_what_an_activation_became_since_the_forward_began_is_called():
    model, inputs = tiny("gpt2")
    reference = copy.deepcopy(model)
    patch(model)
    for one in (model, reference):
        for mlp in modules_of(one, "GPT2MLP"):
            mlp.c_fc.register_forward_hook(
                lambda *call, mlp=mlp: mlp.__dict__.update(act=torch.sigmoid)
            )
    assert_same_gradients(step_of(model, inputs), step_of(reference, inputs))
