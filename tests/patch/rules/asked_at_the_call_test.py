"""What a forward calls is what stands there when it calls it, whatever the forward did before."""

import contextlib
import functools

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, build, counted, loss_and_gradients
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3


class QuickGelu(nn.Module):
    factor = 1.702

    def forward(self, x):
        return x * torch.sigmoid(self.factor * x)


class Mlp(nn.Module):
    """With an activation that it may put there itself."""

    def __init__(self, gated):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(32, 48), nn.Linear(48, 32)
        if gated:
            self.gate_proj = nn.Linear(32, 48)
        self.act, self.dropout = nn.SiLU() if gated else QuickGelu(), nn.Dropout(0.0)
        self.others = [self.act, nn.ReLU()]
        self.choice = 0


class ByMethod(Mlp):
    def choose(self):
        self.act = self.others[self.choice]

    def forward(self, x):
        self.choose()
        return self.down_proj(self.dropout(self.act(self.up_proj(x))))


class GatedByMethod(ByMethod):
    def forward(self, x):
        self.choose()
        return self.down_proj(self.dropout(self.act(self.gate_proj(x)) * self.up_proj(x)))


class ByContext(Mlp):
    @contextlib.contextmanager
    def chosen(self):
        self.act = self.others[self.choice]
        try:
            yield
        finally:
            self.act = self.others[0]

    def forward(self, x):
        with self.chosen():
            h = self.act(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(self.dropout(h))


class OfTheActivation(Mlp):
    def tune(self):
        self.act.factor = 3.0 if self.choice else 1.702

    def forward(self, x):
        self.tune()
        return self.down_proj(self.dropout(self.act(self.up_proj(x))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GatedByMethod(True),
        lambda: ByMethod(False),
        lambda: ByContext(True),
        lambda: OfTheActivation(False),
    ],
)
def test_an_activation_that_a_forward_chooses(make, monkeypatch):
    torch.manual_seed(5)
    mlp = make()
    x = torch.randn(2, 7, 32)
    first = mlp(x)
    patch(nn.Sequential(mlp))
    with counted(monkeypatch) as calls:
        torch.testing.assert_close(mlp(x), first, rtol=1e-5, atol=1e-5)
    assert sum(calls.values()) == 1
    mlp.choice = 1
    expected = type(mlp).forward(mlp, x)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(expected, first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-5)
    mlp.choice = 0
    torch.testing.assert_close(mlp(x), first, rtol=1e-5, atol=1e-5)


class Exchanges(nn.Linear):
    """A projection that puts another rotation in the file while its attention runs."""

    def forward(self, x):
        if self.is_on:
            self.file.apply_rotary_pos_emb = self.other
        return super().forward(x)


@pytest.mark.parametrize("file", [modeling_llama, modeling_qwen3])
def test_a_rotation_that_a_forward_exchanges(file, monkeypatch):
    own = file.apply_rotary_pos_emb
    monkeypatch.setattr(file, "apply_rotary_pos_emb", own)  # it is put back at the end

    @functools.wraps(own)
    def doubled(q, k, cos, sin, unsqueeze_dim=1):
        q, k = own(q, k, cos, sin, unsqueeze_dim)
        return 2 * q, k

    def made():
        model = build(file.__name__.split("_")[-1].capitalize())
        for layer in model.model.layers:
            layer.self_attn.q_proj.__class__ = Exchanges
            layer.self_attn.q_proj.__dict__.update(file=file, other=doubled, is_on=False)
        return model

    def step(model, is_on):
        file.apply_rotary_pos_emb = own
        for layer in model.model.layers:
            layer.self_attn.q_proj.is_on = is_on
        return loss_and_gradients(model)

    reference, model = made(), made()
    handle = patch(model)
    untouched, expected = step(reference, False), step(reference, True)
    with pytest.raises(AssertionError):
        assert_same_step(expected, untouched)
    assert_same_step(step(model, False), untouched)
    assert not any(row.own_calls for row in handle.report())
    assert_same_step(step(model, True), expected)
