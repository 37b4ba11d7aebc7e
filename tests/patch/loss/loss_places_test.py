"""Losses that a forward takes in other places: scripted, in a checkpoint, of other parts, with
arguments that have the names of ours."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import VOCABULARY, assert_same_step, batch, build, counted, loss_and_gradients
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM
from transformers.loss import loss_utils
from transformers.modeling_outputs import CausalLMOutput


def with_loss(loss_of, family="Llama"):
    """A model whose forward takes its loss by loss_of(model, states, labels)."""

    class Model(LlamaForCausalLM):
        def forward(self, input_ids, labels=None, **kwargs):
            states = self.model(input_ids).last_hidden_state
            return CausalLMOutput(loss=loss_of(self, states, labels))

    model = build(family)
    model.__class__ = Model
    return model


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))


@torch.jit.script
def scripted_in_place(logits: torch.Tensor, labels: torch.Tensor):
    logits.mul_(0.5)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


@torch.jit.script
def scripted_through_a_view(logits: torch.Tensor, labels: torch.Tensor):
    rows = logits.view(-1, logits.size(-1))
    rows.mul_(0.5)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def used_after(scripted):
    """What the script wrote is seen by code that comes after it, with its gradient."""

    def loss_of(model, states, labels):
        logits = model.lm_head(states)
        return scripted(logits, labels) + cross_entropy(logits, labels) + logits.pow(2).mean()

    return loss_of


SCRIPTED = {
    "in_place": lambda m, states, labels: scripted_in_place(m.lm_head(states), labels),
    "through_a_view": lambda m, states, labels: scripted_through_a_view(m.lm_head(states), labels),
    "in_place_and_after": used_after(scripted_in_place),
    "through_a_view_and_after": used_after(scripted_through_a_view),
}


@pytest.mark.parametrize("name", SCRIPTED)
def test_a_scripted_loss_writes_into_its_logits(name):
    model = with_loss(SCRIPTED[name])
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


def in_checkpoint(reentrant):
    def head_and_loss(model, states, labels):
        return checkpoint(
            lambda states, labels: cross_entropy(model.lm_head(states), labels),
            states,
            labels,
            use_reentrant=reentrant,
        )

    def head(model, states, labels):
        logits = checkpoint(model.lm_head, states, use_reentrant=reentrant)
        return cross_entropy(logits, labels)

    def loss(model, states, labels):
        return checkpoint(cross_entropy, model.lm_head(states), labels, use_reentrant=reentrant)

    return {"head_and_loss": head_and_loss, "head": head, "loss": loss}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["head_and_loss", "head", "loss"])
def test_a_checkpoint_around_a_part_of_the_loss(part, reentrant):
    model = with_loss(in_checkpoint(reentrant)[part])
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


def shifted(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())


def capped(logits, labels):
    return F.cross_entropy((torch.tanh(logits / 2) * 2).flatten(0, 1), labels.flatten())


def squared(logits, labels):
    return (logits / 2).pow(2).mean() + logits[0, 1:].logsumexp(-1).mean()


@pytest.mark.parametrize("loss_of", [shifted, capped, squared])
@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_a_loss_that_is_compiled_by_itself(loss_of, flags):
    torch._dynamo.reset()
    compiled = torch.compile(loss_of, backend="eager")
    model = with_loss(lambda model, states, labels: compiled(model.lm_head(states), labels))
    steps = [batch(), batch(tokens=7)]
    expected = [loss_and_gradients(model, **inputs) for inputs in steps]
    torch._dynamo.reset()
    patch(model, **flags)
    for inputs, step in zip(steps, expected, strict=True):
        assert_same_step(loss_and_gradients(model, **inputs), step)


def test_a_checkpoint_around_the_model_keeps_its_loss(monkeypatch):
    model = with_loss(lambda model, states, labels: cross_entropy(model.lm_head(states), labels))
    expected = loss_and_gradients(model)
    patch(model)
    with counted(monkeypatch) as calls:
        inputs = batch()
        loss = checkpoint(
            lambda ids, labels: model(ids, labels=labels).loss,
            inputs["input_ids"],
            inputs["labels"],
            use_reentrant=False,
        )
        loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_same_step((loss.detach(), gradients), expected)
    assert calls["fused_linear_cross_entropy"] == 2


def with_own_option(own):
    """Arguments with the names of options of ours."""

    def forward(self, input_ids, labels=None, use_token_scaling=False, skip_logits=None, **kwargs):
        output = own(self, input_ids, labels=labels, **kwargs)
        output.loss = output.loss * (0.1 if use_token_scaling else 1.0)
        output.loss = output.loss * (0.5 if skip_logits else 1.0)
        return output

    return forward


class OwnOption(LlamaForCausalLM):
    forward = with_own_option(LlamaForCausalLM.forward)


@pytest.mark.parametrize("flags", [{}, {"fused_linear_cross_entropy": False}])
def test_an_argument_of_the_models_own_is_the_models(flags):
    model = build()
    model.__class__ = OwnOption
    inputs = batch() | {"use_token_scaling": True, "skip_logits": True}
    expected = loss_and_gradients(model, **inputs)
    patch(model, **flags)
    assert_same_step(loss_and_gradients(model, **inputs), expected)


@pytest.mark.parametrize("flags", [{}, {"fused_linear_cross_entropy": False}])
@pytest.mark.parametrize("change", ["another class", "another forward of the class"])
def test_an_argument_of_a_forward_that_came_later_is_the_models(change, flags, monkeypatch):
    model = build()
    patch(model, **flags)
    loss_and_gradients(model, **batch())
    if change == "another class":
        model.__class__ = OwnOption
    else:
        monkeypatch.setattr(LlamaForCausalLM, "forward", with_own_option(LlamaForCausalLM.forward))
    inputs = batch() | {"use_token_scaling": True, "skip_logits": True}
    reference = build()
    if change == "another class":
        reference.__class__ = OwnOption
    assert_same_step(loss_and_gradients(model, **inputs), loss_and_gradients(reference, **inputs))
    positional = (batch()["input_ids"], batch()["labels"])  # where the first forward has a mask
    with counted(monkeypatch) as calls:
        torch.testing.assert_close(model(*positional).loss, reference(*positional).loss)
    assert calls["fused_linear_cross_entropy"] == (0 if flags else 1)


def without_more(own):
    def forward(self, input_ids, labels=None):
        return own(self, input_ids, labels=labels)

    return forward


@pytest.mark.parametrize("flags", [{}, {"fused_linear_cross_entropy": False}])
@pytest.mark.parametrize("over", ["a cover", "the class's new forward"])
def test_options_are_those_of_the_forward_that_a_call_stands_for(over, flags, monkeypatch):
    """One from before the class got a forward with arguments of those names."""
    inputs = batch() | {"skip_logits": True}
    monkeypatch.setattr(LlamaForCausalLM, "forward", without_more(LlamaForCausalLM.forward))
    expected = loss_and_gradients(build(), **batch())
    model = build()
    patch(model, **flags)
    before = model.forward
    if over == "a cover":
        model.forward = lambda *args, **kwargs: before(*args, **kwargs)
        loss_and_gradients(model, **inputs)
        monkeypatch.setattr(LlamaForCausalLM, "forward", with_own_option(LlamaForCausalLM.forward))
    else:

        def forward(self, input_ids, labels=None, skip_logits=None):
            return before(input_ids, labels=labels, skip_logits=skip_logits)

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    assert_same_step(loss_and_gradients(model, **inputs), expected)


def doubled(source, target, num_items_in_batch=None, ignore_index=-100, **kwargs):
    return 2 * F.cross_entropy(source, target, ignore_index=ignore_index)


def another_inner_loss(model, monkeypatch):
    monkeypatch.setattr(loss_utils, "fixed_cross_entropy", doubled)


def another_code_of_the_inner_loss(model, monkeypatch):
    monkeypatch.setattr(loss_utils.fixed_cross_entropy, "__code__", doubled.__code__)
    monkeypatch.setattr(loss_utils.fixed_cross_entropy, "__defaults__", doubled.__defaults__)
    monkeypatch.setitem(vars(loss_utils), "F", F)


def mine(logits, labels, vocab_size, **kwargs):
    return doubled(logits.view(-1, vocab_size), labels.view(-1))


def another_loss_of_that_type(model, monkeypatch):
    monkeypatch.setitem(loss_utils.LOSS_MAPPING, "ForCausalLM", mine)


def another_type(model, monkeypatch):
    monkeypatch.setitem(loss_utils.LOSS_MAPPING, "Mine", mine)
    monkeypatch.setattr(model, "loss_type", "Mine")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "change",
    [
        another_inner_loss,
        another_code_of_the_inner_loss,
        another_loss_of_that_type,
        another_type,
    ],
)
def test_a_compiled_model_obeys_the_loss_of_now(change, when, monkeypatch):
    torch._dynamo.reset()
    model = build(num_hidden_layers=1)
    with monkeypatch.context() as changed:
        change(model, changed)
        expected = model(**batch()).loss
    if when == "before":
        change(model, monkeypatch)
    patch(model)
    step = torch.compile(model, backend="eager")
    if when == "after":
        assert not torch.allclose(step(**batch()).loss, expected, rtol=1e-3)
        change(model, monkeypatch)
    assert torch.allclose(step(**batch()).loss, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_a_compiled_loss_has_the_shape_of_its_divisor(shape):
    torch._dynamo.reset()
    model, inputs = build(num_hidden_layers=1), batch()
    inputs["num_items_in_batch"] = torch.full(shape, 9)
    expected = model(**inputs).loss
    patch(model)
    found = torch.compile(model, backend="eager")(**inputs).loss
    assert found.shape == expected.shape == shape
    assert torch.allclose(found, expected, rtol=1e-5)
