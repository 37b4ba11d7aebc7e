"""A class's forward that is no function: it is bound, or not, as Python does it."""

import functools
from unittest import mock

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast


class Half(nn.Module):
    def forward(self, x, *args, **kwargs):
        return x * 0.5


class Descriptor:
    """Gives a module what is bound to its class as well."""

    def __get__(self, module, kind=None):
        return functools.partial(torch.mul, len(kind.__name__))


def half(x, *args, **kwargs):
    return x * 0.5


KINDS = {
    "a mock": lambda: mock.MagicMock(side_effect=half),
    "a static method": lambda: staticmethod(half),
    "a class method": lambda: classmethod(lambda kind, x, *args, **kwargs: x * 0.5),
    "a partial function": lambda: functools.partial(half),
    "a module": Half,
    "a builtin": lambda: torch.zeros_like,
    "a builtin method": lambda: staticmethod(torch.tanh),
    "a descriptor": Descriptor,
}
PARTS = ["model.norm", "model.layers.0.mlp", "lm_head"]


def arguments_of(forward):
    calls = getattr(forward, "call_args_list", [])
    return [(len(one.args), sorted(one.kwargs)) for one in calls]


@pytest.mark.parametrize("path", PARTS)
@pytest.mark.parametrize("name", KINDS)
def test_a_class_forward_is_called_as_it_is_found(name, path, monkeypatch):
    found = []
    for patched in (False, True):
        model, forward = build(num_hidden_layers=1), KINDS[name]()
        module = model.get_submodule(path)
        handle = patch(model) if patched else None
        x = torch.linspace(-1, 1, 3 * 32).view(1, 3, 32)
        before = module(x)
        with monkeypatch.context() as changed:
            changed.setattr(type(module), "forward", forward)
            results = [module(x), module(x)]
        results += [module(x), before]
        if handle is not None:
            handle.unpatch()
            with monkeypatch.context() as changed:
                changed.setattr(type(module), "forward", forward)
                results.append(module(x))
        else:
            results.append(results[0])
        found.append((results, arguments_of(forward)))
    (expected, calls), (ours, calls_of_ours) = found
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert calls_of_ours == [*calls, *calls[:1]]
    other, own = expected[0], expected[-2]
    assert other.shape != own.shape or not torch.allclose(other, own)


OUTPUT = CausalLMOutputWithPast(loss=torch.ones(()), logits=torch.zeros(2, 11, 97))
OF_MODELS = {
    "a mock": lambda: mock.MagicMock(return_value=OUTPUT),
    "a static method": lambda: staticmethod(lambda *args, **kwargs: OUTPUT),
    "a partial function": lambda: functools.partial(lambda given, *args, **kwargs: given, OUTPUT),
    "a property": lambda: property(lambda self: lambda *args, **kwargs: OUTPUT),
}


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("name", OF_MODELS)
def test_so_is_that_of_a_model(name, before, monkeypatch):
    found = []
    for patched in (False, True):
        model, forward = build(num_hidden_layers=1), OF_MODELS[name]()
        with monkeypatch.context() as changed:
            if before:
                changed.setattr(type(model), "forward", forward)
            if patched:
                patch(model)
            changed.setattr(type(model), "forward", forward)
            assert model(**batch()).loss is OUTPUT.loss
        found.append(arguments_of(forward))
    assert found[0] == found[1]
