"""Forwards that ask whether they are in training: no probe sees both answers of each of them."""

import copy
import itertools

import pytest
import torch
from family_models import tiny
from liger_jit.patch import patch
from tiny_models import error
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class ByMode(nn.Module):
    def forward(self, x):
        return F.silu(x) if self.training else F.gelu(x)


class QuickInTraining(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x) if self.training else F.gelu(x)


class Plain(nn.Module):
    """Does more than its formula, so that the call of its activation alone would be replaced."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.act, self.dropout = QuickInTraining(), nn.Dropout(0.0)

    def forward(self, x):
        return self.down(self.dropout(self.act(self.up(x))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(16, 24, bias=False) for _ in range(2))
        self.down_proj, self.act_fn = nn.Linear(24, 16, bias=False), ByMode()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class GatedWithDropout(Gated):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, x):
        return self.down_proj(self.dropout(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))


class ByModesOfTwo(Gated):
    """What its own mode does, and what that of its activation does, cancel where both are one."""

    def __init__(self):
        super().__init__()
        self.act_fn = NegatedInTraining()

    def forward(self, x):
        y = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(-y if self.training else y)


class NegatedInTraining(nn.Module):
    def forward(self, x):
        return -F.silu(x) if self.training else F.silu(x)


class Norm(LlamaRMSNorm):
    def __init__(self):
        super().__init__(16)

    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y * 2


def modes_of(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Plain, Gated, GatedWithDropout, ByModesOfTwo, Norm])
def test_a_module_of_two_modes_gives_in_each_what_it_gave(kind, training):
    torch.manual_seed(2)
    model = nn.Sequential(kind())
    own, x = copy.deepcopy(model), torch.randn(2, 5, 16)
    model.train(training)
    patch(model)
    for mode, of_children in itertools.product((True, False), repeat=2):
        for one in (model, own):
            one.train(mode)
            for child in one[0].children():
                child.train(of_children)
        assert error(model(x), own(x)) <= 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_experts_of_two_modes_are_left_alone(training):
    model, _ = tiny("qwen3_moe")
    experts = [one for one in model.modules() if type(one).__name__.endswith("Experts")]
    for one in experts:
        one.act_fn = ByMode()
    paths = [path for path, one in model.named_modules() if one in experts]
    status = {row.path: row.status for row in patch(model.train(training)).report()}
    assert paths and all("in training" in status[path] for path in paths)


def test_a_probe_leaves_each_modules_mode_as_it_was():
    model, _ = tiny("qwen3_moe")
    for index, module in enumerate(model.modules()):
        module.training = index % 3 == 0
    before = modes_of(model)
    handle = patch(model)
    assert modes_of(model) == before
    handle.unpatch()
    assert modes_of(model) == before
