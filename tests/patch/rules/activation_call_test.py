"""MLPs that do more than their formula: the call of their activation is replaced, and no more."""

import copy

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.patch import patch
from tiny_models import LowRank, assert_same_step, counted, error, shape_of
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

MODELS = ("gpt2", "gptj", "gpt_bigcode", "codegen")


class Mlp(nn.Module):
    def __init__(self, act="gelu_new"):
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), Conv1D(16, 24)
        self.act = ACT2FN[act] if isinstance(act, str) else act
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        hidden = self.dropout(self.act(self.up(x)))
        return F.dropout(self.down(hidden), p=0.2, training=self.training)


class Scaled(Mlp):
    def forward(self, x):
        hidden = self.act(self.up(x)) * 0.5
        self.last = hidden.shape
        return self.down(hidden) if len(hidden) > 1 else self.down(hidden * 2)


class Twice(Mlp):
    def forward(self, x):
        return self.act(self.down(self.dropout(self.act(self.up(x)))))


class HandedOn(Mlp):
    def forward(self, x):
        act = self.act
        return self.down(self.dropout(act(self.up(x))))


class Clipped(nn.Module):
    """Quick GELU but for values that are far from those of most probes."""

    def forward(self, x):
        return torch.where(x > 1e5, x / 2, x * torch.sigmoid(1.702 * x))


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        Counting.calls += 1
        return x * torch.sigmoid(1.702 * x)


def row(mlp):
    return next(one for one in patch(nn.Sequential(mlp)).report() if one.path == "0")


def step(mlp, x):
    torch.manual_seed(3)
    y = mlp(x)
    return [y, *torch.autograd.grad(y.float().sin().sum(), (x, *mlp.parameters()))]


def assert_alike(found, expected, tolerance=1e-5):
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype and error(mine, own) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["gelu_new", "quick_gelu", "relu2"])
@pytest.mark.parametrize("kind", [Mlp, Scaled])
def test_the_call_alone_is_replaced(kind, act, dtype, monkeypatch):
    mlp = kind(act).to(dtype)
    x = torch.randn(2, 5, 16).to(dtype).requires_grad_()
    expected = step(copy.deepcopy(mlp), x)
    found = row(mlp)
    assert found.patched and found.role == ("relu_squared" if act == "relu2" else "activation")
    with counted(monkeypatch) as calls:
        mine = step(mlp, x)
    assert calls["activate"] + calls["relu_squared"] == 1
    assert_alike(mine, expected, 1e-5 if dtype is torch.float32 else 4e-2)
    mlp.eval()
    assert error(mlp(x), kind.forward(mlp, x)) <= 1e-2


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Mlp("gelu"), "dropout"),  # which torch has in one operation
        (lambda: Mlp(nn.Tanh()), "dropout"),
        (lambda: Mlp(Clipped()), "dropout"),
        (lambda: Twice(), "dropout"),
        (lambda: HandedOn(), "child act"),
    ],
    ids=["gelu", "another", "clipped", "twice", "handed on"],
)
def test_others_stay(make, why):
    mlp = make()
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(mlp, x)
    found = row(mlp)
    assert not found.patched and why in found.status.lower()
    assert all(map(torch.equal, step(mlp, x), expected))


def test_an_activation_with_effects_is_not_run():
    mlp = Mlp(Counting())
    assert not row(mlp).patched
    assert Counting.calls == 0


def test_what_is_changed_after_the_patch_counts(monkeypatch):
    mlp = Mlp()
    handle = patch(nn.Sequential(mlp))
    x = torch.randn(2, 5, 16).requires_grad_()

    def ours():
        torch.manual_seed(3)
        expected = Mlp.forward(mlp, x)
        torch.manual_seed(3)
        with counted(monkeypatch) as calls:
            found = mlp(x)
        assert error(found, expected) <= 1e-5
        return calls["activate"]

    assert ours() == 1
    mlp.up = LowRank(mlp.up)  # an adapter is called as any projection
    assert ours() == 1
    own, mlp.act = mlp.act, nn.Tanh()
    assert ours() == 0
    mlp.act = own
    seen = []
    hook = own.register_forward_hook(lambda module, given, result: seen.append(result))
    assert ours() == 0 and len(seen) == 2
    hook.remove()
    assert ours() == 1
    with monkeypatch.context() as changed:
        changed.setattr(type(own), "forward", lambda self, x: x.tanh())
        assert ours() == 0
    with monkeypatch.context() as changed:
        changed.setattr(Mlp, "forward", lambda self, x: self.down(self.act(self.up(x)).tanh()))
        assert ours() == 0
    assert "another forward" in "".join(row.why for row in handle.report())


def test_a_compiled_mlp_has_no_break():
    mlp = Mlp().eval()
    x = torch.randn(2, 5, 16).requires_grad_()
    expected = step(mlp, x)
    assert row(mlp).patched
    assert_alike(step(torch.compile(mlp, fullgraph=True, backend="aot_eager"), x), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_before_and_is_taken_back(name, monkeypatch):
    model, given = tiny(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    before, own = shape_of(model), step_of(model, given)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["activate"] == handle.report().counts["activation"][0] == 2
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]), 1e-4)
    handle.unpatch()
    assert shape_of(model) == before
    again = step_of(model, given)
    assert all(torch.equal(again[1][key], own[1][key]) for key in own[1])
