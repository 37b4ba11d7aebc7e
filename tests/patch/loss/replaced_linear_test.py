"""Another F in the file of torch's linear layer, which the layer's forward reads."""

from types import SimpleNamespace

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients
from torch.nn import functional as F
from torch.nn.modules import linear as linear_file


def scaled(*args):
    return F.linear(*args) * 1.1


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_what_linear_layers_call_is_called(how, monkeypatch):
    torch._dynamo.reset()
    model, plain = build(num_hidden_layers=1), build(num_hidden_layers=1)
    patch(model)
    expected = loss_and_gradients(plain)
    assert_same_step(loss_and_gradients(model), expected)
    step = torch.compile(model, backend="eager") if how == "compiled" else model
    torch.testing.assert_close(step(**batch()).loss.detach(), expected[0], rtol=1e-5, atol=0)
    monkeypatch.setattr(linear_file, "F", SimpleNamespace(linear=scaled))
    wanted = loss_and_gradients(plain)
    torch.testing.assert_close(step(**batch()).loss.detach(), wanted[0], rtol=1e-5, atol=0)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), wanted)
    assert not calls["fused_linear_cross_entropy"] and not calls["gated_mlp"]
