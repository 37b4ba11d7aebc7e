"""Residual sums and the LayerNorms beside them: one node, with the layer's result."""

import pytest
import torch
from family_models import step_of
from liger_jit import functional
from liger_jit.patch import patch
from tiny_models import counted
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertLMHeadModel


class WrittenOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16) + 0.5)
        self.eps = 1e-5

    def forward(self, x):
        kept = x.dtype
        x = x.float()
        x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight.float() * x).to(kept)


NORMS = {
    "torch's": lambda: nn.LayerNorm(16),
    "without a bias": lambda: nn.LayerNorm(16, bias=False),
    "without weights": lambda: nn.LayerNorm(16, elementwise_affine=False),
    "written out": WrittenOut,
}


class Layer(nn.Module):
    def __init__(self, norm, dropout=0.0):
        super().__init__()
        self.attention, self.mlp = (nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))
        self.norm, self.last = norm(), norm()
        self.dropout = dropout
        for one in self.parameters():
            nn.init.normal_(one, 0.5)


class PreNorm(Layer):
    def forward(self, x):
        y = self.norm(x)
        y = self.attention(y)
        y = F.dropout(y, p=self.dropout, training=self.training)
        x = x + y
        y = self.last(x)
        y = self.mlp(y)
        return x + y


class PostNorm(Layer):
    """Nothing needs its sums but their norms."""

    def forward(self, x):
        y = self.attention(x)
        y = F.dropout(y, p=self.dropout, training=self.training)
        y = x + y
        y = self.norm(y)
        z = self.mlp(y)
        z = y + z
        z = self.last(z)
        return z


class NormThenSum(Layer):
    def forward(self, x):
        y = self.attention(x)
        y = self.norm(y)
        y = x + y
        z = self.mlp(y)
        z = self.last(z)
        z = z + y
        return z


class Unnamed(Layer):
    """As BERT's parts, which call a norm on a sum."""

    def forward(self, x):
        y = self.norm(self.attention(x) + x)
        return self.last(y + F.dropout(self.mlp(y), p=self.dropout, training=self.training))


# (class, its role, calls of that op)
LAYERS = {
    "unnamed sums": (Unnamed, "fused_add_layer_norm", 2),
    "pre-norm": (PreNorm, "fused_add_layer_norm", 1),
    "post-norm": (PostNorm, "fused_add_layer_norm", 2),
    "norm, then sum": (NormThenSum, "layer_norm_add", 2),
}


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def made(kind, norm, dtype=torch.float32, dropout=0.0):
    torch.manual_seed(0)
    return Model(LAYERS[kind][0](NORMS[norm], dropout)).to(dtype)


def step(model, dtype=torch.float32):
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    x.requires_grad_()
    model.zero_grad()
    torch.manual_seed(2)
    y = model(x)
    (y.float() * torch.arange(16)).sum().backward()
    return y.detach(), {"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}


def assert_same(found, expected, dtype):
    torch.testing.assert_close(found[0], expected[0], **LIMITS[dtype])
    for name, gradient in expected[1].items():
        error = (found[1][name] - gradient).double().norm()
        assert error <= RELATIVE[dtype] * gradient.double().norm() + 1e-6, name


LIMITS = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 6e-2, "atol": 6e-2},
}
RELATIVE = {torch.float32: 2e-5, torch.bfloat16: 6e-2}


def row_of(handle):
    (row,) = (
        row
        for row in handle.report()
        if row.module in {one.__name__ for one, *_ in LAYERS.values()}
    )
    return row.role, row.status


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_norm_takes_the_sum_beside_it(kind, norm, dtype, monkeypatch):
    _, role, count = LAYERS[kind]
    model = made(kind, norm, dtype)
    expected = step(model, dtype)
    handle = patch(model)
    assert row_of(handle) == (role, "patched")
    with counted(monkeypatch) as calls:
        found = step(model, dtype)
    assert calls[role] == count, str(handle.report())
    assert_same(found, expected, dtype)
    handle.unpatch()
    assert torch.equal(step(model, dtype)[0], expected[0])


@pytest.mark.parametrize("kind", ["pre-norm", "post-norm", "unnamed sums"])
def test_a_layer_that_drops_elements_drops_the_same(kind, monkeypatch):
    model = made(kind, "torch's", dropout=0.5)
    expected = step(model)
    handle = patch(model)
    assert row_of(handle) == ("fused_add_layer_norm", "patched")
    assert_same(step(model), expected, torch.float32)
    model.eval()
    patched = step(model)
    handle.unpatch()
    assert_same(patched, step(model), torch.float32)


def test_probes_leave_the_caller_its_random_numbers():
    model = made("pre-norm", "torch's", dropout=0.5)
    state = torch.get_rng_state()
    patch(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_flag_turns_it_off(monkeypatch):
    model = made("pre-norm", "torch's")
    assert row_of(patch(model, layer_norm=False)) == ("add_norm", "turned off (layer_norm=False)")
    with counted(monkeypatch) as calls:
        step(model)
    assert not calls
    handle = patch(made("pre-norm", "torch's"), rms_norm=False)
    assert row_of(handle) == ("fused_add_layer_norm", "patched")


@pytest.mark.parametrize("kind", LAYERS)
def test_an_operator_that_is_wrong_is_noticed(kind, monkeypatch):
    _, role, _ = LAYERS[kind]
    right = getattr(functional, role)
    monkeypatch.setattr(functional, role, lambda x, other, *rest: right(x, other * 1.1, *rest))
    assert row_of(patch(made(kind, "torch's")))[1].startswith("the layer: output differs by")


def test_a_hook_on_the_norm_keeps_the_sum_out_of_it(monkeypatch):
    model = made("pre-norm", "torch's")
    patch(model)
    seen = []
    model.layer.last.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    with counted(monkeypatch) as calls:
        step(model)
    assert calls["fused_add_layer_norm"] == 0 and len(seen) == 1


def test_it_compiles_in_one_graph():
    model = made("pre-norm", "torch's")
    expected = step(model)
    patch(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(step(compiled), (expected[0], compiled_names(expected[1])), torch.float32)


def compiled_names(gradients):
    return {name if name == "x" else f"_orig_mod.{name}": one for name, one in gradients.items()}


def test_weights_of_another_dtype_are_the_layers_own(monkeypatch):
    model = made("pre-norm", "torch's", torch.bfloat16)
    model.layer.norm.float(), model.layer.last.float()
    expected = step(model, torch.bfloat16)
    patch(model)
    with counted(monkeypatch) as calls:
        assert_same(step(model, torch.bfloat16), expected, torch.bfloat16)
    assert calls["fused_add_layer_norm"] == 0


def test_a_norm_of_an_unnamed_sum_that_is_hooked_is_called(monkeypatch):
    model = made("unnamed sums", "torch's")
    patch(model)
    seen = []
    model.layer.norm.register_forward_hook(lambda norm, given, result: seen.append(given[0].shape))
    with counted(monkeypatch) as calls:
        step(model)
    assert seen == [(2, 5, 16)]
    assert calls["fused_add_layer_norm"] == calls["layer_norm"] == 1


def test_bert_trains_as_before_and_is_taken_back(monkeypatch):
    torch.manual_seed(6)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        vocab_size=97, is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertLMHeadModel(config).train()
    ids = torch.randint(3, 90, (2, 9))
    given = {"input_ids": ids, "labels": ids}
    own = step_of(model, given)
    handle = patch(model)
    assert handle.report().counts["fused_add_layer_norm"] == (4, 4), str(handle.report())
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["fused_add_layer_norm"] == 4
    torch.testing.assert_close(found[0], own[0], rtol=2e-5, atol=0.0)
    for name, gradient in own[1].items():
        # A key's bias moves all of a query's scores alike.
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    handle.unpatch()
    again = step_of(model, given)
    assert again[0] == own[0]
    assert all(torch.equal(again[1][name], own[1][name]) for name in own[1])
