"""A patched model's output is of the class that its model made it of, and made once."""

from collections import OrderedDict, defaultdict
from dataclasses import KW_ONLY, FrozenInstanceError, dataclass, field
from typing import NamedTuple

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import VOCABULARY, batch, build
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput


@dataclass
class KeywordsAlone(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    _: KW_ONLY = None
    states: torch.Tensor | None = None

    def __repr__(self):
        return "its own"


@dataclass
class SetLater(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    states: torch.Tensor | None = field(default=None, init=False)


@dataclass
class AsOften(CausalLMOutputWithPast):
    states: torch.Tensor | None = None

    def __post_init__(self):
        super().__post_init__()
        self.times = getattr(self, "times", 0) + 1


class OwnOutput(LlamaForCausalLM):
    made = None

    def forward(self, input_ids=None, labels=None, **kwargs):
        states = self.model(input_ids).last_hidden_state
        logits = self.lm_head(states)
        output = self.made(loss=self.loss_function(logits, labels, VOCABULARY), logits=logits)
        output["states"] = states
        return output


@pytest.mark.parametrize("with_tokens", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("made", [KeywordsAlone, SetLater, AsOften])
def test_an_output_whose_constructor_does_not_take_it_whole(made, compiled, with_tokens):
    model = build()
    model.__class__ = type("Own", (OwnOutput,), {"made": made})
    expected = model(**batch())
    patch(model)
    call = torch.compile(model, backend="eager") if compiled else model
    output = call(**batch(), **({"return_token_accuracy": True} if with_tokens else {}))
    assert isinstance(output, made) and output.logits is None
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output["states"], expected.states)
    assert not compiled or output[1] is output.states
    assert compiled or output[2] is output.states
    assert getattr(output, "times", 1) == 1
    if not with_tokens:
        assert repr(output).split("(")[0] == repr(expected).split("(")[0]


@dataclass
class Halved(CausalLMOutputWithPast):
    states: torch.Tensor | None = None

    def __post_init__(self):
        super().__post_init__()
        self["loss"] = self.loss / 2


@dataclass(frozen=True)
class Frozen(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    states: torch.Tensor | None = None

    def __post_init__(self):
        for name in ("loss", "logits"):
            OrderedDict.__setitem__(self, name, getattr(self, name))


class Noting(dict):
    """Says what is set after it was made."""

    def __setitem__(self, name, value):
        self.noted = [*getattr(self, "noted", []), name]
        super().__setitem__(name, value)


def noting(loss, logits):
    return Noting(loss=loss, logits=logits)


def with_more(loss, logits):
    output = CausalLMOutputWithPast(loss=loss, logits=logits)
    output.thrice = loss * 3
    return output


def item_set_to_none(loss, logits):
    output = CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=(loss * 2,))
    output.hidden_states = None
    return output


def with_a_default(loss, logits):
    output = defaultdict(list)
    output["loss"], output["logits"] = loss, logits
    return output


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("made", [Halved, noting, with_more, item_set_to_none, with_a_default])
def test_an_output_is_made_once_and_has_all_that_its_model_gave_it(made, compiled):
    model = build()
    model.__class__ = type("Own", (OwnOutput,), {"made": staticmethod(made)})
    expected = model(**batch())
    patch(model)
    torch._dynamo.reset()
    call = torch.compile(model, backend="eager") if compiled else model
    output = call(**batch())
    torch.testing.assert_close(output["loss"], expected["loss"])
    assert isinstance(output, type(expected)) and output.get("logits") is None
    assert [name for name in expected if name != "logits"] == [
        name for name in output if output[name] is not None
    ]
    if made is noting:
        assert output.noted == expected.noted == ["states"]
    if made is with_more:
        torch.testing.assert_close(output.thrice, expected.thrice)
    if made is item_set_to_none:
        assert output.hidden_states is None and output["hidden_states"] is not None
    if made is with_a_default:
        assert output["another"] == []


@dataclass
class Longer(CausalLMOutputWithPast):
    states: torch.Tensor | None = None

    def to_tuple(self):
        return ("first", *super().to_tuple())


@dataclass
class Uncounted(CausalLMOutputWithPast):
    states: torch.Tensor | None = None

    def __len__(self):
        return 17


@pytest.mark.parametrize("made", [Longer, Uncounted])
def test_a_class_with_a_tuple_or_a_length_of_its_own_has_the_place_of_logits(made):
    model = build()
    model.__class__ = type("Own", (OwnOutput,), {"made": made})
    expected = model(**batch())
    patch(model)
    output = model(**batch())
    found, wanted = output.to_tuple(), expected.to_tuple()
    assert output.logits is None and len(found) == len(wanted)
    assert made is not Uncounted or len(output) == 17
    for value, other in zip(found, wanted, strict=True):
        if other is expected.logits:
            assert value is None
        elif isinstance(other, torch.Tensor):
            torch.testing.assert_close(value, other)
        else:
            assert value == other


class OfAFrozenClass(LlamaForCausalLM):
    def forward(self, input_ids=None, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids).last_hidden_state)
        return Frozen(loss=self.loss_function(logits, labels, VOCABULARY), logits=logits)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("asked", [{}, {"return_token_accuracy": True}])
def test_an_output_of_a_frozen_class(asked, compiled):
    if compiled and asked:
        pytest.skip("what is added to an output is set, as it is in one of any class")
    model = build()
    model.__class__ = OfAFrozenClass
    expected = model(**batch())
    patch(model)
    torch._dynamo.reset()
    output = (torch.compile(model, backend="eager") if compiled else model)(**batch(), **asked)
    torch.testing.assert_close(output.loss, expected.loss)
    assert output.logits is None and (compiled or output[1] is None)
    assert not asked or output.token_accuracy is not None
    with pytest.raises(FrozenInstanceError):
        output.loss = None


@dataclass
class Registered(CausalLMOutputWithPast):
    states: torch.Tensor | None = None
    kinds = ["Registered"]

    def __init_subclass__(cls, *, name, **kwargs):
        cls.kinds.append(name)


@pytest.mark.parametrize("asked", [{}, {"return_token_accuracy": True}])
def test_a_class_does_not_hear_of_those_that_are_made_of_it(asked):
    model = build()
    model.__class__ = type("Own", (OwnOutput,), {"made": Registered})
    expected = model(**batch())
    patch(model)
    output = model(**batch(), **asked)
    assert isinstance(output, Registered) and Registered.kinds == ["Registered"]
    torch.testing.assert_close(output.loss, expected.loss)


class Pair(tuple):
    @property
    def loss(self):
        return self[0]


class Named(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


class NamedWithMore(Named):
    pass


class Tuples(LlamaForCausalLM):
    def forward(self, input_ids=None, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids).last_hidden_state)
        output = self.made(self.loss_function(logits, labels, VOCABULARY), logits)
        if hasattr(output, "__dict__"):
            output.more = output.loss * 3
        return output


@pytest.mark.parametrize("made", [lambda *of: Pair(of), Named, NamedWithMore])
def test_a_tuple_has_the_class_and_attributes_that_its_model_gave_it(made):
    model = build()
    model.__class__ = type("Own", (Tuples,), {"made": staticmethod(made)})
    expected = model(**batch())
    patch(model)
    output = model(**batch())
    assert type(output) is type(expected) and output[1] is None
    torch.testing.assert_close(output.loss, expected.loss)
    if hasattr(expected, "more"):
        torch.testing.assert_close(output.more, expected.more)


class OtherLogits(LlamaForCausalLM):
    def forward(self, input_ids=None, labels=None, **kwargs):
        states = self.model(input_ids).last_hidden_state
        logits = self.lm_head(states)
        loss = self.loss_function(logits, labels, VOCABULARY)
        return CausalLMOutputWithPast(loss=loss, hidden_states=logits, attentions=(states,))


def test_an_output_that_has_no_logits_has_no_place_for_them():
    model = build()
    model.__class__ = OtherLogits
    expected = model(**batch())
    patch(model)
    output = model(**batch())
    assert len(output.to_tuple()) == len(expected.to_tuple())
    torch.testing.assert_close(output[1], expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output[2][0], expected[2][0], rtol=1e-4, atol=1e-5)
