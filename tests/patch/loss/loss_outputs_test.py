"""What a training step of a patched model returns is what its forward made, logits apart."""

import copy
import io
import pickle
import types
import typing
from collections import defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import VOCABULARY, assert_same_step, batch, build, gradients_of
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast


class Named(NamedTuple):
    loss: Any
    logits: Any


class WithConstructor(dict):
    def __init__(self, output):
        super().__init__(loss=output.loss, logits=output.logits)


def with_attribute(output):
    output.aux = torch.ones(1)
    return output


def with_item(output):
    output["aux"] = torch.ones(1)
    return output


def with_number_as_key(output):
    return {"loss": output.loss, "logits": output.logits, 0: "kept"}


def with_default(output):
    made = defaultdict(list)
    made["loss"], made["logits"] = output.loss, output.logits
    return made


RESULTS = {
    "an attribute": (with_attribute, lambda output: output.aux),
    "a further item": (with_item, lambda output: output["aux"]),
    "a named tuple": (lambda output: Named(output.loss, output.logits), lambda found: found.loss),
    "a number as a key": (with_number_as_key, lambda found: found[0]),
    "a class with a constructor": (WithConstructor, lambda found: found["loss"]),
    "a default": (with_default, lambda found: found["others"]),
}


def changed(model, change):
    class Changed(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            return change(super().forward(input_ids=input_ids, labels=labels, **kwargs))

    model.__class__ = Changed
    return model


@pytest.mark.parametrize("with_tokens", [False, True])
@pytest.mark.parametrize("kind", RESULTS)
def test_what_a_forward_puts_into_its_output_is_there(kind, with_tokens):
    change, read = RESULTS[kind]
    model = changed(build(), change)
    expected = read(model(**batch()))
    patch(model)
    output = model(**batch(), **({"return_predicted_tokens": True} if with_tokens else {}))
    if with_tokens and kind == "a named tuple":
        assert len(output) == 4  # what was asked for has no name in it
        return
    found = read(output)
    assert type(found) is type(expected)
    if torch.is_tensor(found):
        torch.testing.assert_close(found, expected)
    else:
        assert found == expected


def test_an_output_without_logits_is_returned_itself():
    made = []
    model = changed(build(), lambda output: made.append({"loss": output.loss}) or made[-1])
    patch(model)
    assert model(**batch()) is made[0]


def test_an_output_that_the_forward_keeps_is_not_written():
    kept = []
    model = changed(build(), lambda output: kept.append(output) or output)
    expected = model(**batch()).logits
    patch(model)
    assert model(**batch()).logits is None
    torch.testing.assert_close(kept[-1].logits, expected)


@pytest.mark.parametrize("options", [{}, {"use_cache": False, "output_hidden_states": True}])
@pytest.mark.parametrize("asked", [{}, {"return_token_accuracy": True}])
def test_what_comes_after_logits_stays_in_its_place(options, asked):
    model = build()
    expected = model(**batch(), **options)
    patch(model)
    output = model(**batch(), **options, **asked)
    loss, logits, third = output[:3]
    assert loss is output.loss and logits is None and output[1] is None
    assert type(third) is type(expected[2]) and third is output[2]
    assert "logits" not in output and len(output.to_tuple()) == len(expected) + len(asked)
    assert [*output.keys()][:2] == ["loss", [*expected.keys()][2]]
    values, form = tree_flatten(output)
    assert tree_unflatten(values, form)[1] is None
    kept = model(**batch(), **options, skip_logits=False)
    assert kept[1] is kept.logits and type(kept) is type(expected)


def test_an_output_without_logits_is_saved_as_its_class():
    model = build()
    patch(model)
    output = model(**batch(), use_cache=False)
    loaded = pickle.loads(pickle.dumps(output))
    assert type(loaded) is CausalLMOutputWithPast and isinstance(output, CausalLMOutputWithPast)
    assert torch.equal(loaded.loss, output.loss)


def put_as_attribute(output, logits):
    output.logits = logits


def put_as_item(output, logits):
    output["logits"] = logits


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda output: output])
@pytest.mark.parametrize("put", [None, put_as_attribute, put_as_item])
def test_places_stay_in_a_copy_and_where_logits_are_set(copied, put):
    model = build()
    expected = model(**batch(), output_hidden_states=True)
    patch(model)
    with torch.no_grad():  # what has a history has no deep copy
        output = copied(model(**batch(), output_hidden_states=True))
    assert output[1] is None and output[2] is output[[*expected.keys()][2]]
    if put is not None:
        put(output, expected.logits)
        assert output[1] is output.logits is expected.logits
        assert [*output.keys()] == [*expected.keys()]
    assert [*map(type, output[2:])] == [*map(type, expected[2:])]


def own_loss(reduction="mean", dtype=torch.int64):
    class OwnLoss(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            logits = self.lm_head(self.model(input_ids).last_hidden_state)[:, :-1]
            labels = labels[:, 1:].reshape(-1).to(dtype)
            rows = logits.reshape(-1, logits.shape[-1])
            return F.cross_entropy(rows, labels, reduction=reduction)

    return OwnLoss


class HookedRows(LlamaForCausalLM):
    def forward(self, input_ids=None, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids).last_hidden_state)
        rows = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        rows.register_hook(lambda gradient: gradient * 10)
        rows.mul_(3.0)
        return {"loss": rows.mean()}


@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_a_loss_of_rows_keeps_its_hook_where_it_is_written_to(flags):
    model = build(num_hidden_layers=1)
    model.__class__ = HookedRows
    expected = gradients_of(model(**batch())["loss"], model)
    patch(model, **flags)
    assert_same_step(gradients_of(model(**batch())["loss"], model), expected)


def with_loss(model, own):
    model.__class__ = own
    return model, copy.deepcopy(model)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_under_autocast_a_loss_has_the_dtype_of_torch(reduction):
    model, plain = with_loss(build(), own_loss(reduction))
    patch(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model(**batch()), plain(**batch())
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_labels_that_torch_refuses_are_refused():
    model, plain = with_loss(build(), own_loss(dtype=torch.int32))
    patch(model)
    for one in (plain, model):
        with pytest.raises(RuntimeError, match="Long|long|Int"):
            one(**batch())


def test_a_gradient_of_logits_that_never_were_is_an_error_that_says_what_to_do():
    class Asks(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            logits = self.lm_head(self.model(input_ids).last_hidden_state)
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.flatten())
            self.found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
            return loss

    model, plain = with_loss(build(), Asks)
    patch(model)
    plain(**batch())
    with pytest.raises(RuntimeError, match="skip_logits=False"):
        model(**batch())
    model(**batch(), skip_logits=False)
    torch.testing.assert_close(model.found, plain.found)


@pytest.mark.parametrize("around", ["head", "loss"])
def test_the_head_has_the_autocast_of_its_own_call(around):
    class Partly(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            states = self.model(input_ids).last_hidden_state
            with torch.autocast("cpu", torch.bfloat16, enabled=around == "head"):
                logits = self.lm_head(states)
            with torch.autocast("cpu", torch.bfloat16, enabled=around == "loss"):
                return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))

    model, plain = with_loss(build(), Partly)
    patch(model)
    found, expected = model(**batch()), plain(**batch())
    assert found.dtype == expected.dtype
    exact = around == "loss"
    torch.testing.assert_close(
        found, expected, rtol=1e-6 if exact else 0.01, atol=1e-6 if exact else 0.01
    )


def test_a_step_on_meta_tensors_is_one():
    model = build()
    inputs = {name: tensor.to("meta") for name, tensor in batch().items()}
    try:
        copy.deepcopy(model).to("meta")(**inputs)
    except RuntimeError as error:
        pytest.skip(f"this release of transformers takes no meta tensors: {error}")
    patch(model)
    model.to("meta")
    loss = model(**inputs).loss
    assert loss.is_meta
    loss.backward()
    assert all(weight.grad.is_meta for weight in model.parameters())


def test_a_patched_models_forward_is_read_like_a_method():
    model = build()
    plain = copy.deepcopy(model)
    patch(model)
    assert model.forward.__self__ is model
    for name in ("__code__", "__qualname__", "__annotations__", "__defaults__"):
        assert getattr(model.forward, name) == getattr(plain.forward, name)
    assert typing.get_type_hints(model.forward) == typing.get_type_hints(plain.forward)
    bound_again = types.MethodType(model.forward.__func__, model)
    torch.testing.assert_close(bound_again(**batch()).loss, plain(**batch()).loss)
    assert not hasattr(model.forward, "anything_else")
    exported = torch.export.export(
        model.lm_head, (torch.randn(2, model.config.hidden_size),), strict=False
    )
    assert exported.module()(torch.zeros(2, model.config.hidden_size)).eq(0).all()


def test_a_patched_models_loss_is_read_like_a_function():
    model = build()
    own = model.loss_function
    patch(model)
    for name in ("__name__", "__qualname__", "__code__", "__defaults__"):
        assert getattr(model.loss_function, name) == getattr(own, name)
    assert not hasattr(model.loss_function, "anything_else")


def test_what_a_step_makes_of_its_logits_is_in_its_output():
    class Many(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, as_tuple=False, **kwargs):
            logits = self.lm_head(self.model(input_ids).last_hidden_state)
            loss = self.loss_function(logits, labels, self.config.vocab_size)
            if as_tuple:
                return loss, logits, logits[:, -1]
            return {"loss": loss, "logits": logits, "last": logits[:, -1], "half": logits / 2}

    model, plain = with_loss(build(), Many)
    patch(model)
    found, expected = model(**batch()), plain(**batch())
    assert found["logits"] is None
    for name in ("loss", "last", "half"):
        assert type(found[name]) is torch.Tensor
        torch.testing.assert_close(found[name], expected[name])
    found, expected = model(**batch(), as_tuple=True), plain(**batch(), as_tuple=True)
    assert found[1] is None
    torch.testing.assert_close(found[2], expected[2])


def saved_and_loaded(module):
    stored = io.BytesIO()
    torch.save(module, stored)
    size = stored.tell()
    stored.seek(0)
    return size, torch.load(stored, weights_only=False)


def test_a_copy_of_the_head_takes_nothing_else_along():
    model = build()
    size = saved_and_loaded(model.lm_head)[0]
    patch(model)
    model.kept = model(**batch()).loss  # which no deep copy takes
    saved, loaded = saved_and_loaded(model.lm_head)
    assert saved < 1.5 * size
    states = torch.randn(2, model.config.hidden_size)
    for head in (copy.deepcopy(model.lm_head), loaded):
        assert head.forward.__func__ is torch.nn.Linear.forward
        assert head.forward.__self__ is head
        torch.testing.assert_close(head(states), model.lm_head(states))


def test_a_saved_model_has_the_forward_of_its_class():
    model = build()
    expected = model(**batch()).logits
    for fused in (True, False):  # without it, something stands in for skip_logits
        handle = patch(model, fused_linear_cross_entropy=fused)
        loaded = saved_and_loaded(model)[1]
        assert b"liger_jit." not in pickle.dumps(model)  # it loads without this library
        handle.unpatch()
        assert loaded.forward.__func__ is type(model).forward
        torch.testing.assert_close(loaded(**batch()).logits, expected)


class KeywordLabels(LlamaForCausalLM):
    """As subclasses on the hub that hand on what they get."""

    def forward(self, *args, labels=None, **kwargs):
        return super().forward(*args, labels=labels, **kwargs)


def test_labels_that_are_a_keyword_alone_have_no_position():
    model = build(num_hidden_layers=1)
    model.__class__ = KeywordLabels
    ids = batch()["input_ids"]
    expected = model(ids, torch.ones_like(ids)).logits
    patch(model)
    assert torch.allclose(model(ids, torch.ones_like(ids)).logits, expected, atol=1e-5)
    assert model(ids, labels=ids).logits is None


class Scores(LlamaForCausalLM):
    fused = True

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        if not self.fused:
            return logits[:, -1], logits
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return logits[:, -1], logits, loss


def test_logits_of_a_tuple_are_those_of_the_head_and_lost_only_to_a_loss():
    plain, model = build(num_hidden_layers=1), build(num_hidden_layers=1)
    plain.__class__ = model.__class__ = Scores
    patch(model)
    inputs = {name: batch()[name] for name in ("input_ids", "labels")}
    scores, logits, loss = model(**inputs)
    expected = plain(**inputs)
    assert logits is None
    assert torch.allclose(scores, expected[0], atol=1e-5)
    assert torch.allclose(loss, expected[2], atol=1e-5)
    model.fused = False  # no loss did without them
    for found, wanted in zip(model(**inputs), expected, strict=False):
        assert torch.allclose(found, wanted, atol=1e-5)


class NamedLogits(LlamaForCausalLM):
    """Has something by the name of logits that its loss was not made without."""

    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids, **kwargs).last_hidden_state
        logits = self.lm_head(states)
        loss = self.loss_function(logits, labels, VOCABULARY)
        return CausalLMOutputWithPast(loss=loss, logits=self.named(self, states, logits))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "named",
    [
        lambda model, states, logits: states,
        lambda model, states, logits: logits.softmax(-1),
        lambda model, states, logits: logits.detach(),
        lambda model, states, logits: logits.argmax(-1),
        lambda model, states, logits: model.lm_head(states * 0.5),
    ],
    ids=["states", "probabilities", "detached", "tokens", "another call"],
)
def test_what_else_has_the_name_of_logits_is_in_the_output(named, compiled):
    plain, model = build(num_hidden_layers=1), build(num_hidden_layers=1)
    plain.__class__ = model.__class__ = NamedLogits
    plain.named = model.named = named
    patch(model)
    torch._dynamo.reset()
    call = torch.compile(model, backend="aot_eager") if compiled else model
    found, expected = call(**batch()), plain(**batch())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
