"""What torch refuses to make a loss of is refused in a patched model, compiled or not."""

import copy

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build, error
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
    assert error(found.float(), expected.float()) <= 2e-3
