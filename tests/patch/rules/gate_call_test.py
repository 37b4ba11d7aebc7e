"""Gated MLPs that do more than their formula: the gate is one call where it stands, and no more."""

import copy

import pytest
import torch
from family_models import OWN, class_of, small_config, step_of, tiny
from liger_jit.patch import patch
from tiny_models import LowRank, assert_same_step, counted, error, shape_of
from torch import nn
from torch.nn import functional as F
from transformers import MoshiConfig
from transformers.activations import ACT2FN
from transformers.models.moshi.modeling_moshi import MoshiGatingMLP


class Mlp(nn.Module):
    def __init__(self, act="silu"):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 24), nn.Linear(16, 24)
        self.down_proj = nn.Linear(24, 16)
        self.act_fn, self.dropout = ACT2FN[act] if isinstance(act, str) else act, nn.Dropout(0.3)


class Dropping(Mlp):
    def forward(self, x):
        hidden = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return F.dropout(self.down_proj(self.dropout(hidden)), 0.2, self.training)


class Scaling(Mlp):
    """Falcon-H1's."""

    def forward(self, x):
        y = self.up_proj(x) * self.act_fn(self.gate_proj(x) * 0.7)
        return self.down_proj(y) * 0.3


class Clamping(Mlp):
    def forward(self, x):
        gate = self.gate_proj(x).clamp(max=0.5)
        up = self.up_proj(x).clamp(min=-0.5, max=0.5)
        return self.down_proj(self.act_fn(gate) * up)


class Residual(Mlp):
    """A factor of the width of one."""

    def forward(self, x):
        up = self.up_proj(x).sum(-1, keepdim=True).relu()
        return self.down_proj(self.act_fn(self.gate_proj(x)) * up)


class ByNumber(Mlp):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * len(x) + self.up_proj(x))


class Sum(Mlp):
    def forward(self, x):
        return self.down_proj(self.dropout(self.act_fn(self.gate_proj(x)) + self.up_proj(x)))


class Twice(Mlp):
    def forward(self, x):
        hidden = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.dropout(self.down_proj(self.act_fn(hidden)))


class Squared(Mlp):
    def forward(self, x):
        gate = self.gate_proj(x)
        return self.dropout(self.down_proj(gate * F.silu(gate) * self.up_proj(x)))


def rows(mlp):
    return [row for row in patch(nn.Sequential(mlp)).report() if row.path == "0"]


def step(mlp, x):
    torch.manual_seed(3)
    y = mlp(x)
    return [y, *torch.autograd.grad(y.float().sin().sum(), (x, *mlp.parameters()))]


def assert_alike(found, expected, tolerance=1e-5):
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype and error(mine, own) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("kind", [Dropping, Scaling, Clamping])
def test_the_gate_alone_is_replaced(kind, act, dtype, monkeypatch):
    mlp = kind(act).to(dtype)
    x = torch.randn(2, 5, 16).to(dtype).requires_grad_()
    expected = step(copy.deepcopy(mlp), x)
    done, missed = rows(mlp)
    assert done.patched and done.role == ("swiglu" if act == "silu" else "geglu")
    assert missed.role == "gated_mlp"
    assert any(word in missed.status for word in ("dropout", "scales", "clamp"))
    with counted(monkeypatch) as calls:
        mine = step(mlp, x)
    assert dict(calls) == {done.role: 1}
    assert_alike(mine, expected, 1e-5 if dtype is torch.float32 else 4e-2)


@pytest.mark.parametrize("kind", [Residual, ByNumber])
def test_another_factor_is_multiplied_as_it_was(kind, monkeypatch):
    mlp = kind()
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(copy.deepcopy(mlp), x)
    rows(mlp)
    with counted(monkeypatch) as calls:
        assert_alike(step(mlp, x), expected, 0.0)
    assert not calls


@pytest.mark.parametrize("make", [Sum, Twice, Squared, lambda: Dropping("relu")])
def test_others_stay(make):
    mlp = make()
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(mlp, x)
    (row,) = rows(mlp)
    assert not row.patched and "dropout" in row.status.lower()
    assert all(map(torch.equal, step(mlp, x), expected))


def test_what_is_changed_after_the_patch_counts(monkeypatch):
    mlp = Dropping()
    patch(nn.Sequential(mlp))
    x = torch.randn(2, 5, 16).requires_grad_()

    def ours():
        torch.manual_seed(3)
        expected = Dropping.forward(mlp, x)
        torch.manual_seed(3)
        with counted(monkeypatch) as calls:
            found = mlp(x)
        assert error(found, expected) <= 1e-5
        return calls["swiglu"]

    assert ours() == 1
    mlp.up_proj = LowRank(mlp.up_proj)
    assert ours() == 1
    own, mlp.act_fn = mlp.act_fn, nn.Tanh()
    assert ours() == 0
    mlp.act_fn = own
    seen = []
    hook = own.register_forward_hook(lambda module, given, result: seen.append(result))
    assert ours() == 0 and len(seen) == 2
    hook.remove()
    # One that comes while the forward runs is called too.
    mlp.gate_proj.register_forward_hook(
        lambda *given: hooks.append(own.register_forward_hook(lambda *given: seen.append(given)))
    )
    hooks, before = [], len(seen)
    with counted(monkeypatch) as calls:
        mlp(x)
    assert len(seen) == before + 1 and not calls["swiglu"]


@pytest.mark.parametrize("kind", [Dropping, Scaling])
def test_factors_are_evaluated_in_their_order(kind):
    mlp, order = kind(), []
    for name in ("gate_proj", "up_proj"):
        getattr(mlp, name).register_forward_hook(lambda *given, name=name: order.append(name))
    x = torch.randn(2, 5, 16)
    kind.forward(mlp, x)
    assert rows(mlp)[0].patched
    mlp(x)
    assert order[:2] == order[2:]


def test_a_compiled_mlp_has_no_break():
    mlp = Dropping().eval()
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(mlp, x)
    assert rows(mlp)[0].patched
    assert_alike(step(torch.compile(mlp, fullgraph=True, backend="aot_eager"), x), expected)


def falcon():
    """With the multipliers that released models have."""
    model, given = tiny("falcon_h1")
    torch.manual_seed(1)
    own = {**OWN["falcon_h1"], "mlp_multipliers": [0.8, 0.6]}
    kind = class_of("falcon_h1")
    multiplied = kind(small_config(kind.config_class, own)).train()
    multiplied.load_state_dict(model.state_dict())
    return multiplied, given


def seed_oss():
    model, given = tiny("seed_oss")
    for layer in model.model.layers:
        layer.mlp.residual_dropout = 0.2
    return model, given


@pytest.mark.parametrize("make", [falcon, seed_oss])
def test_a_model_trains_as_before_and_is_taken_back(make, monkeypatch):
    model, given = make()
    before, own = shape_of(model), step_of(model, given)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["swiglu"] == handle.report().counts["swiglu"][0] == 2
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]), 1e-4)
    handle.unpatch()
    assert shape_of(model) == before
    again = step_of(model, given)
    assert all(torch.equal(again[1][key], own[1][key]) for key in own[1])


def test_factors_may_be_parts_of_one_projection(monkeypatch):
    mlp = MoshiGatingMLP(MoshiConfig(hidden_size=16, ffn_dim=48))
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(copy.deepcopy(mlp), x)
    assert rows(mlp)[0].role == "swiglu"
    with counted(monkeypatch) as calls:
        assert_alike(step(mlp, x), expected)
    assert calls["swiglu"] == 1


class Writing(Mlp):
    """What the activation is multiplied with writes to its input."""

    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(self.dropout(self.act_fn(gate) * gate.mul_(2)))


class WritingElsewhere(Mlp):
    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(self.dropout(self.act_fn(gate) * self.up(gate, x)))

    def up(self, gate, x):
        gate += 1
        return self.up_proj(x)


class OfTheGate(Mlp):
    """A child may write to it."""

    def __init__(self):
        super().__init__()
        self.up_proj = nn.ReLU(inplace=True)

    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(self.dropout(self.act_fn(gate) * self.up_proj(gate)))


@pytest.mark.parametrize("kind", [Writing, WritingElsewhere, OfTheGate])
def test_a_factor_that_may_write_to_the_gate_comes_after_the_activation(kind):
    mlp = kind().eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = mlp(x)
        assert not any(row.patched for row in rows(mlp))
        assert torch.equal(mlp(x), expected)
