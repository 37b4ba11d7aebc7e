"""What is saved of a patched model holds a loss function only if the model held one before."""

import copy
import io
import pickle

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build, counted
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

NAME = "_loss_function"


def halved(*args, **kwargs):
    return ForCausalLMLoss(*args, **kwargs) * 0.5


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("save", [pickled, saved])
def test_what_is_loaded_obeys_its_type(save, how, monkeypatch):
    torch._dynamo.reset()
    model = build(num_hidden_layers=1)
    expected = model(**batch()).loss
    patch(model)
    assert NAME in vars(model)
    loaded = save(model)
    assert NAME not in vars(loaded) and NAME in vars(model)
    monkeypatch.setitem(LOSS_MAPPING, "Mine", halved)
    loaded.loss_type = "Mine"
    step = torch.compile(loaded, backend="eager") if how == "compiled" else loaded
    torch.testing.assert_close(step(**batch()).loss, expected / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", [ForCausalLMLoss, halved])
def test_a_loss_that_was_set_is_saved(loss):
    model = build(num_hidden_layers=1)
    model.loss_function = loss
    patch(model)
    assert vars(pickled(model))[NAME] is loss


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_patched_as_ever(copied, monkeypatch):
    model = build(num_hidden_layers=1)
    patch(model)
    twin = copied(model)
    assert type(vars(twin)[NAME]) is type(vars(model)[NAME])
    assert (vars(twin)[NAME] is vars(model)[NAME]) == (copied is copy.copy)
    with counted(monkeypatch) as calls:
        twin(**batch())
    assert calls["fused_linear_cross_entropy"] == 1


def test_another_model_of_that_class_is_saved_as_ever():
    model, other = build(num_hidden_layers=1), build(num_hidden_layers=1)
    expected = pickle.dumps(other)
    with patch(model):
        assert len(pickle.dumps(other)) == len(expected)
