"""Where ours stands for the loss function that a model has by its class or its type: what it finds,
and what those have who took it."""

import functools

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients
from transformers import LlamaForCausalLM, PreTrainedModel, modeling_utils
from transformers.loss import loss_utils
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

NAME = "_loss_function"


def small():
    return build(num_hidden_layers=1)


def as_is(model):
    return model


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="eager", fullgraph=True)


HOW = pytest.mark.parametrize("how", [as_is, compiled])


def loss_of(model, how=as_is):
    return how(model)(**batch()).loss.detach()


def assert_loss(model, expected, how=as_is):
    torch.testing.assert_close(loss_of(model, how), expected, rtol=1e-5, atol=0)


def halved(logits, labels, vocab_size, **kwargs):
    return ForCausalLMLoss(logits, labels, vocab_size, **kwargs) * 0.5


def halved_by_method(model, logits, labels, vocab_size, **kwargs):
    return halved(logits, labels, model.config.vocab_size, **kwargs)


class Halved(LlamaForCausalLM):
    _loss_function = staticmethod(halved)


def attribute(model, monkeypatch):
    monkeypatch.setattr(type(model), NAME, staticmethod(halved), raising=False)


def inherited_attribute(model, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, NAME, staticmethod(halved), raising=False)


def method(model, monkeypatch):
    monkeypatch.setattr(type(model), NAME, halved_by_method, raising=False)


def another_class(model, monkeypatch):
    monkeypatch.setattr(model, "__class__", Halved)


def another_mapping(model, monkeypatch):
    mapping = LOSS_MAPPING | {"ForCausalLM": halved}
    monkeypatch.setattr(modeling_utils, "LOSS_MAPPING", mapping)


CHANGES = [attribute, inherited_attribute, method, another_class, another_mapping]


@HOW
@pytest.mark.parametrize("change", CHANGES)
def test_the_loss_is_what_class_and_type_give_now(change, how, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    with monkeypatch.context() as changed:
        change(model, changed)
        assert_loss(model, expected / 2, how)
    assert_loss(model, expected, how)


@pytest.mark.parametrize("change", [another_class, another_mapping])
def test_a_compiled_model_sees_the_change(change, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    step = compiled(model)
    for _ in range(2):
        assert_loss(step, expected)
        with monkeypatch.context() as changed:
            change(model, changed)
            assert_loss(step, expected / 2)


def test_a_changed_mapping_that_the_models_do_not_read_is_not_asked(monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    monkeypatch.setattr(loss_utils, "LOSS_MAPPING", {"ForCausalLM": halved})
    assert_loss(model, expected)


def half_of(function):
    return lambda *args, **kwargs: function(*args, **kwargs) * 0.5


def as_a_type(model, function, monkeypatch):
    monkeypatch.setitem(LOSS_MAPPING, "Mine", function)
    model.loss_type = "Mine"


def for_all_models(model, function, monkeypatch):
    monkeypatch.setitem(LOSS_MAPPING, "ForCausalLM", function)


def as_an_attribute(model, function, monkeypatch):
    monkeypatch.setattr(type(model), NAME, staticmethod(function), raising=False)


@HOW
@pytest.mark.parametrize("give", [as_a_type, for_all_models, as_an_attribute])
def test_a_loss_that_was_made_of_ours_is_made_of_the_one_before(give, how, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    give(model, half_of(model.loss_function), monkeypatch)
    assert_loss(model, expected / 2, how)
    assert_loss(model, expected / 2)


def test_it_is_fused_as_the_one_before(monkeypatch):
    model = small()
    loss, gradients = loss_and_gradients(model)
    patch(model)
    as_a_type(model, half_of(model.loss_function), monkeypatch)
    with counted(monkeypatch) as calls:
        step = loss_and_gradients(model)
    assert calls["fused_linear_cross_entropy"] == 1
    assert_same_step(step, (loss / 2, {name: g / 2 for name, g in gradients.items()}))


@HOW
def test_so_it_is_in_a_model_that_is_patched_later(how, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    for_all_models(model, half_of(model.loss_function), monkeypatch)
    assert_loss(model, expected / 2)
    later = small()
    patch(later)
    assert_loss(later, expected / 2, how)


def test_an_error_in_such_a_loss_leaves_nothing_behind(monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    own = model.loss_function

    def failing(*args, **kwargs):
        own(*args, **kwargs)
        raise RuntimeError("none today")

    as_a_type(model, failing, monkeypatch)
    with pytest.raises(RuntimeError, match="none today"):
        loss_of(model)
    monkeypatch.setitem(LOSS_MAPPING, "Mine", halved)
    assert_loss(model, expected / 2)


@HOW
@pytest.mark.parametrize("give", [as_a_type, for_all_models])
def test_what_covers_ours_has_the_loss_from_before_it(give, how, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    model.loss_function = half_of(model.loss_function)
    give(model, halved, monkeypatch)
    assert_loss(model, expected / 2, how)


@HOW
def test_a_loss_that_is_of_the_mapping_and_covers_ours(how, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    mine = half_of(model.loss_function)
    for_all_models(model, mine, monkeypatch)
    assert_loss(model, expected / 2)
    model.loss_function = mine
    assert_loss(model, expected / 2, how)


def decorated(function):
    @functools.wraps(function)
    def mine(*args, **kwargs):
        return function(*args, **kwargs) * 0.5

    return mine


@pytest.mark.parametrize("cover", [half_of, decorated])
def test_what_was_changed_before_ours_was_covered_stays(cover, monkeypatch):
    model = small()
    expected = loss_of(model)
    patch(model)
    as_a_type(model, halved, monkeypatch)
    if cover is half_of:
        assert_loss(model, expected / 2)
    model.loss_function = cover(model.loss_function)  # whose name is asked for by a decorator
    del model.loss_type
    assert_loss(model, expected / 4)


def test_another_models_loss_is_the_one_that_was_taken(monkeypatch):
    model, other = small(), small()
    expected = loss_of(model)
    patch(model)
    patch(other)
    model.loss_function = other.loss_function
    as_a_type(other, halved, monkeypatch)
    assert_loss(model, expected)
    assert_loss(other, expected / 2)
