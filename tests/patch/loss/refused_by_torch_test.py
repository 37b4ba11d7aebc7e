"""What torch refuses to make a loss of is refused in a patched model, compiled or not."""

import copy

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM


class Weighted(LlamaForCausalLM):
    """Gives each class of its vocabulary a weight of a dtype."""

    dtype_of_weights = torch.float32

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        rows = logits.view(-1, logits.shape[-1])
        weights = torch.ones(rows.shape[-1], dtype=self.dtype_of_weights)
        return {"loss": F.cross_entropy(rows, labels.view(-1), weight=weights)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_class_weights_of_another_dtype(dtype):
    model = build(num_hidden_layers=1)
    model.__class__ = Weighted
    patch(model)
    inputs = {name: batch()[name] for name in ("input_ids", "labels")}
    assert torch.isfinite(model(**inputs)["loss"])
    model.dtype_of_weights = dtype
    with pytest.raises(RuntimeError):
        model(**inputs)
    if dtype is torch.bfloat16:  # autocast makes one dtype of them
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(model(**inputs)["loss"])


def a_head_of_more_rows_than_the_vocabulary(model, inputs):
    model.lm_head = nn.Linear(model.config.hidden_size, 2 * model.config.vocab_size)


def a_smaller_vocabulary(model, inputs):
    model.config.vocab_size //= 2
    model.vocab_size = model.config.vocab_size


def shifted_labels_in_columns(model, inputs):
    inputs["shift_labels"] = inputs["labels"].t().contiguous().t()


REFUSED = [
    a_head_of_more_rows_than_the_vocabulary,
    a_smaller_vocabulary,
    shifted_labels_in_columns,
]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", REFUSED)
def test_shapes_that_do_not_fit(change, compiled):
    model, inputs = build(num_hidden_layers=1), batch()
    change(model, inputs)
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="eager") if compiled else model
    with pytest.raises(Exception, match="size"):  # torch.compile has torch's error in one of its
        step(**inputs)


DIVISORS = {
    "float64": torch.tensor(7.0, dtype=torch.float64),
    "float16": torch.tensor([7.0], dtype=torch.float16),
    "int64": torch.tensor(7),
    "float32": torch.tensor([7.0]),
    "complex64": torch.tensor(7.0 + 1.0j),
    "complex": 7.0 + 1.0j,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", DIVISORS)
def test_a_loss_has_the_dtype_that_its_divisor_gives_it(name, compiled):
    plain = build(num_hidden_layers=1)
    model = copy.deepcopy(plain)
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager") if compiled else model
    inputs = batch() | {"num_items_in_batch": DIVISORS[name]}
    expected, found = plain(**inputs).loss, step(**inputs).loss
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert abs((found - expected).item()) <= 2e-3 * abs(expected.item())


def a_second_argument(model, states):
    model.lm_head(states, 1)


def no_argument(model, states):
    model.lm_head()


def an_argument_of_another_name(model, states):
    model.lm_head(states=states)


class Calls(LlamaForCausalLM):
    """Calls its head in a way of its own first."""

    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids, **kwargs).last_hidden_state
        self.first(self, states)
        return {"loss": F.cross_entropy(self.lm_head(states).flatten(0, 1), labels.flatten())}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("first", [a_second_argument, no_argument, an_argument_of_another_name])
def test_calls_that_the_head_does_not_take(first, compiled):
    model = build(num_hidden_layers=1)
    model.__class__, model.first = Calls, first
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="eager") if compiled else model
    with pytest.raises(Exception, match="argument"):  # torch.compile has it in an error of its own
        step(**{name: batch()[name] for name in ("input_ids", "labels")})


def test_an_ignored_index_is_a_number():
    model = build(num_hidden_layers=1)
    model.__class__ = Calls
    patch(model)
    model.first = lambda model, states: F.cross_entropy(
        model.lm_head(states).flatten(0, 1), torch.zeros(22, dtype=torch.int64), ignore_index=0.5
    )
    with pytest.raises(TypeError):
        model(**{name: batch()[name] for name in ("input_ids", "labels")})


def labels_of_an_inference_mode(model, states, labels):
    with torch.inference_mode():
        labels = labels.clone()
    return F.cross_entropy(model.lm_head(states).flatten(0, 1), labels)


def weights_of_an_inference_mode(model, states, labels):
    with torch.inference_mode():
        weights = torch.ones(97)
    return F.cross_entropy(model.lm_head(states).flatten(0, 1), labels, weight=weights)


def states_of_an_inference_mode(model, states, labels):
    with torch.inference_mode():
        states = states.clone()
    return F.cross_entropy(model.lm_head(states).flatten(0, 1), labels)


def a_head_of_an_inference_mode(model, states, labels):
    with torch.inference_mode():
        model.lm_head.weight = nn.Parameter(torch.ones(97, 32), requires_grad=False)
    return F.cross_entropy(model.lm_head(states).flatten(0, 1), labels)


def a_trained_head_of_an_inference_mode(model, states, labels):
    with torch.inference_mode():
        model.lm_head.weight = nn.Parameter(torch.ones(97, 32))
    return F.cross_entropy(model.lm_head(states).flatten(0, 1), labels)


class Scores(LlamaForCausalLM):
    """Makes its loss by a function."""

    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids, **kwargs).last_hidden_state
        return {"loss": self.score(self, states, labels.flatten())}


@pytest.mark.parametrize(
    "score",
    [
        labels_of_an_inference_mode,
        weights_of_an_inference_mode,
        states_of_an_inference_mode,
        a_head_of_an_inference_mode,
        a_trained_head_of_an_inference_mode,
    ],
)
def test_what_no_backward_can_keep(score):
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        model.__class__, model.score = Scores, score
        if patched:
            patch(model)
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
            model(**{name: batch()[name] for name in ("input_ids", "labels")})


def test_a_reduction_by_its_old_name():
    model = build(num_hidden_layers=1)
    model.__class__ = Scores
    patch(model)
    losses = []
    for reduction in ("mean", "elementwise_mean"):
        model.score = lambda model, states, labels, reduction=reduction: F.cross_entropy(
            model.lm_head(states).flatten(0, 1), labels, reduction=reduction
        )
        losses.append(model(**{name: batch()[name] for name in ("input_ids", "labels")})["loss"])
    torch.testing.assert_close(*losses)


def probability(rows, labels):
    return F.nll_loss(F.log_softmax(rows, dim=-1), labels)


def written_as_a_whole(logits, labels):
    capped = torch.tanh(logits)
    capped.mul_(1.5)
    return probability(capped, labels)


def written_by_a_function(logits, labels):
    capped = torch.tanh(logits)
    capped.sigmoid_()
    return F.cross_entropy(capped, labels)


def written_through_a_view(logits, labels):
    capped = torch.tanh(logits / 5)
    loss = F.cross_entropy(capped, labels)
    capped.view(2, -1)[:, 3] = 0.0
    return loss + probability(capped, labels)


def written_beside_a_loss(logits, labels):
    loss = F.cross_entropy(logits, labels)
    capped = torch.tanh(logits)
    capped.masked_fill_(capped > 0, -2.0)
    return loss + probability(capped, labels)


def written_after_what_was_made_of_it(logits, labels):
    capped = torch.tanh(logits)
    scaled = capped * 3
    capped.add_(1.0)
    return F.cross_entropy(scaled, labels)


WRITTEN = [
    written_as_a_whole,
    written_by_a_function,
    written_through_a_view,
    written_beside_a_loss,
    written_after_what_was_made_of_it,
]


class Capped(LlamaForCausalLM):
    """Makes its loss of logits by a function."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        return {"loss": self.loss_of(logits.flatten(0, 1), labels.flatten())}


@pytest.mark.parametrize("loss_of", WRITTEN)
def test_a_backward_that_reads_what_was_written_to(loss_of):
    plain = build(num_hidden_layers=1)
    plain.__class__, plain.loss_of = Capped, loss_of
    model = copy.deepcopy(plain)
    patch(model)
    inputs = {name: batch()[name] for name in ("input_ids", "labels")}
    for one in (plain, model):
        loss = one(**inputs)["loss"]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
