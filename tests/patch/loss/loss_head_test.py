"""The loss head: what the loss is, what the output holds, and what the model's forward accepts."""

import copy
import functools
import inspect
import io

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import (
    LowRank,
    adapt,
    assert_same_step,
    batch,
    build,
    counted,
    error,
    loss_and_gradients,
)
from torch import nn


def loss_row(handle):
    return handle.report()[-1]


def test_training_output_has_no_logits_unless_asked_for():
    model = build()
    real = model(**batch()).logits.detach()
    patch(model)
    output = model(**batch())
    assert output.logits is None
    assert "logits" not in output.keys()
    kept = model(**batch(), skip_logits=False).logits
    assert type(kept) is torch.Tensor
    assert error(kept, real) <= 1e-5


def test_without_labels_logits_are_plain_and_differentiable():
    model = build()
    ids = batch()["input_ids"]
    expected = model(input_ids=ids).logits
    patch(model)
    for training in (True, False):
        logits = model.train(training)(input_ids=ids).logits
        assert type(logits) is torch.Tensor
        assert error(logits, expected) <= 1e-5
    logits.sum().backward()


def test_evaluation_keeps_logits_and_skip_logits_drops_them(monkeypatch):
    model = build().eval()
    with torch.no_grad():
        expected = model(**batch())
        patch(model)
        kept = model(**batch())
        assert type(kept.logits) is torch.Tensor
        assert error(kept.logits, expected.logits) <= 1e-5
        with counted(monkeypatch) as calls:
            dropped = model(**batch(), skip_logits=True)
    assert dropped.logits is None
    assert calls["fused_linear_cross_entropy"] == 1
    assert error(dropped.loss, expected.loss) <= 1e-5


def test_skip_logits_without_labels_is_an_error():
    model = build()
    patch(model)
    with pytest.raises(ValueError, match="needs labels"):
        model(input_ids=batch()["input_ids"], skip_logits=True)
    assert model(**batch()).loss is not None


def test_num_items_in_batch():
    model = build()
    for number in (7, torch.tensor(7)):
        expected = loss_and_gradients(model, **batch(), num_items_in_batch=number)
        with patch(model):
            found = loss_and_gradients(model, **batch(), num_items_in_batch=number)
        assert_same_step(found, expected)


def test_a_batch_without_labels_of_a_step_without_items_has_no_gradient():
    """Its loss is 0 / 0 and so NaN; a step that takes in its gradients must not become NaN."""
    model = build()
    for head in (True, False):
        with patch(model, fused_linear_cross_entropy=head):
            for number in (0, torch.tensor(0)):
                inputs = batch() | {"num_items_in_batch": number}
                inputs["labels"] = torch.full_like(inputs["labels"], -100)
                loss, gradients = loss_and_gradients(model, **inputs)
                assert loss.isnan() and gradients
                assert not any(gradient.any() for gradient in gradients.values())


def test_shifted_labels_and_labels_by_position():
    model = build()
    inputs = batch()
    shifted = torch.roll(inputs["labels"], -1, dims=1)
    expected = loss_and_gradients(model, **inputs, shift_labels=shifted)
    signature = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds")
    with patch(model):
        assert_same_step(loss_and_gradients(model, **inputs, shift_labels=shifted), expected)
        output = model(inputs["input_ids"], *[None] * (len(signature) - 1), inputs["labels"])
    assert output.logits is None
    assert error(output.loss, model(**inputs).loss) <= 1e-5


def test_all_labels_ignored():
    model = build()
    inputs = batch() | {"labels": torch.full((2, 11), -100)}
    expected = loss_and_gradients(model, **inputs, num_items_in_batch=5)
    with patch(model):
        found = loss_and_gradients(model, **inputs, num_items_in_batch=5)
        assert found[0] == expected[0] == 0
        assert all(not g.any() for g in found[1].values())
        assert model(**inputs).loss.isnan()


def test_tied_embeddings():
    model = build(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


def test_frozen_head():
    model = build()
    model.lm_head.weight.requires_grad_(False)
    expected = loss_and_gradients(model)
    patch(model)
    found = loss_and_gradients(model)
    assert "lm_head.weight" not in found[1]
    assert_same_step(found, expected)


@pytest.mark.parametrize("fused", [True, False])
def test_token_accuracy_predictions_and_scaling(fused):
    model = build()
    inputs = batch()
    logits = model(**inputs).logits.detach()[:, :-1].reshape(-1, 97)
    labels = inputs["labels"][:, 1:].reshape(-1)
    counted_rows = labels != -100
    patch(model, cross_entropy=not fused, fused_linear_cross_entropy=fused)
    output = model(**inputs, return_token_accuracy=True, return_predicted_tokens=True)
    right = (logits.argmax(-1) == labels)[counted_rows].float().mean()
    assert error(output.token_accuracy, right) <= 1e-6 or output.token_accuracy == right
    found = output.predicted_tokens.view(2, 11)[:, :-1].reshape(-1)
    assert torch.equal(found[counted_rows], logits.argmax(-1)[counted_rows])
    assert isinstance(output, type(model.eval()(**inputs)))
    each = nn.functional.cross_entropy(logits, labels, reduction="none")[counted_rows]
    scaled = model.train()(**inputs, use_token_scaling=True).loss
    assert error(scaled, (each * torch.exp(-each)).mean()) <= 1e-5


def test_tuple_output():
    model = build()
    expected = model(**batch(), return_dict=False)
    patch(model)
    loss, logits, *_ = model(**batch(), return_dict=False)
    assert logits is None
    assert error(loss, expected[0]) <= 1e-5
    kept = model.eval()(**batch(), return_dict=False)
    assert error(kept[1], expected[1]) <= 1e-5


def test_unfused_cross_entropy_keeps_logits(monkeypatch):
    model = build()
    expected, logits = loss_and_gradients(model), model(**batch()).logits.detach()
    handle = patch(model, cross_entropy=True, fused_linear_cross_entropy=False)
    assert loss_row(handle).role == "cross_entropy"
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
        output = model(**batch())
    assert calls["cross_entropy"] == 2
    assert calls["fused_linear_cross_entropy"] == 0
    assert type(output.logits) is torch.Tensor
    assert error(output.logits, logits) <= 1e-5


def test_softcapped_logits_are_fused(monkeypatch):
    model = build("Gemma2", final_logit_softcapping=3.0)
    expected = loss_and_gradients(model)
    handle = patch(model, rms_norm=False)
    assert loss_row(handle).patched
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected, 1e-4)
    assert calls["fused_linear_cross_entropy"] == 1


def test_an_error_inside_the_model_leaves_no_state():
    model = build()
    patch(model)
    with pytest.raises(ValueError, match="exactly one"):
        model(labels=batch()["labels"])
    logits = model.lm_head(torch.randn(2, 3, 32))
    assert type(logits) is torch.Tensor


class Wrapper(nn.Module):
    """Calls model.forward as PEFT does, past the model's hooks."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_base_model(self):
        return self.model

    def forward(self, **kwargs):
        return self.model.forward(**kwargs)


CALLED = []


def trainers_forward(self, input_ids, labels=None):
    CALLED.append(self)
    return type(self).forward(self, input_ids=input_ids, labels=labels)


def forward_of_anything(self, *args, **kwargs):
    CALLED.append(self)
    return type(self).forward(self, *args, **kwargs)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("trainers", [trainers_forward, forward_of_anything])
def test_a_forward_that_a_trainer_put_on_the_model_is_still_called(adapted, bound, trainers):
    model = build()
    if adapted:
        adapt(model)
    expected = loss_and_gradients(model)
    model.forward = trainers.__get__(model) if bound else functools.partial(trainers, model)
    before, signature = model.forward, inspect.signature(model.forward)
    handle = patch(model)
    assert loss_row(handle).patched
    assert inspect.signature(model.forward) == signature
    CALLED.clear()
    assert_same_step(loss_and_gradients(model), expected)
    again = copy.deepcopy(model)
    assert_same_step(loss_and_gradients(again), expected)
    assert CALLED == [model, again]
    if trainers is trainers_forward:
        model(*batch().values()).loss.backward()
        assert len(CALLED) == 3
    if not bound:  # a method that its class does not have cannot be pickled
        kept = io.BytesIO()
        torch.save(model, kept)
        loaded = torch.load(io.BytesIO(kept.getvalue()), weights_only=False)
        assert_same_step(loss_and_gradients(loaded), expected)
        assert CALLED[-1] is loaded
    handle.unpatch()
    assert model.forward is before


def test_a_second_adapter_that_wraps_the_head():
    model = build()
    adapt(model)
    patch(model)
    model.lm_head = LowRank(model.lm_head)
    patched = loss_and_gradients(model)
    unpatched = build()
    adapt(unpatched)
    unpatched.lm_head = LowRank(unpatched.lm_head)
    unpatched.load_state_dict(model.state_dict())
    assert_same_step(patched, loss_and_gradients(unpatched))


@pytest.mark.parametrize("patch_wrapper", [True, False])
def test_adapters_and_their_wrapper(monkeypatch, patch_wrapper):
    model = build()
    adapt(model)
    wrapper = Wrapper(model)
    expected, signature = loss_and_gradients(wrapper), inspect.signature(model.forward)
    handle = patch(wrapper if patch_wrapper else model)
    assert all(row.patched for row in handle.report()), str(handle.report())
    assert inspect.signature(model.forward) == signature
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(wrapper), expected)
        output = wrapper(**batch(), return_token_accuracy=True)
    assert calls["fused_linear_cross_entropy"] == 2
    assert output.logits is None
    assert output.token_accuracy is not None
    handle.unpatch()
    assert "forward" not in model.__dict__


def test_adapters_after_the_patch(monkeypatch):
    model = build()
    patch(model)
    adapt(model)
    wrapper = Wrapper(model)
    with counted(monkeypatch) as calls:
        output = wrapper(**batch())
        output.loss.backward()
    assert calls["fused_linear_cross_entropy"] == 1
    assert output.logits is None


@pytest.mark.parametrize("make", [LowRank, nn.Sequential])
def test_a_head_that_is_no_plain_linear_is_left(make):
    model = build()
    model.lm_head = make(model.lm_head)
    expected = loss_and_gradients(model)
    handle = patch(model)
    assert f"{make.__name__}, not a plain nn.Linear" in loss_row(handle).status
    assert_same_step(loss_and_gradients(model), expected)


def test_a_model_without_a_head():
    handle = patch(build().model)
    assert "no output head" in loss_row(handle).status


def test_weights_that_leave_the_head_early_are_not_held(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    patch(model)
    model.lm_head.weight.ds_id = 1  # the mark of DeepSpeed's partitioned parameters
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["fused_linear_cross_entropy"] == 0
