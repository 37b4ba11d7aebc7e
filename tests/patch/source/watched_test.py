"""What a forward may not do if it is to be replaced, and what a guard sees of what it may do."""

import copy
from functools import partial

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.installed import standing
from liger_jit.patch.source.definition import innermost
from tiny_models import assert_same_step, build, error, loss_and_gradients
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
)

LOG = []
SETTINGS = {"gain": 1.0}


class Norm(LlamaRMSNorm):
    """The formula, for a subclass to hide something in that a probe does not see."""

    gain = [1.0]

    def formula(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * h.to(x.dtype)


class Clamped(Norm):
    def forward(self, x):
        return self.formula(x.clamp(-100, 100))


class Cleaned(Norm):
    def forward(self, x):
        return self.formula(torch.nan_to_num(x))


class Counting(Norm):
    def forward(self, x):
        self.calls = 1
        return self.formula(x)


class Logging(Norm):
    def forward(self, x):
        LOG.append(x.shape)
        return self.formula(x)


class BySettings(Norm):
    def forward(self, x):
        return self.formula(x) * SETTINGS["gain"]


class ByText(Norm):
    def forward(self, x):
        return self.formula(x) * getattr(self, "gain")[0]  # noqa: B009


class ByClassAttribute(Norm):
    def forward(self, x):
        return self.formula(x) * self.gain[0]


class ByProperty(Norm):
    @property
    def scale(self):
        return self.gain[0]

    def forward(self, x):
        return self.formula(x) * self.scale


class ByLength(Norm):
    def forward(self, x):
        if x.shape[1] > 100:
            return 2 * self.formula(x)
        return self.formula(x)


class InPlace(Norm):
    def forward(self, x):
        y = self.formula(x)
        y *= 1.0
        return y


class ByInner(Norm):
    def forward(self, x):
        return (lambda y: y)(self.formula(x))


class OverTokens(Norm):
    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + self.variance_epsilon)
        return self.weight * h.to(x.dtype)


class OfHalfPrecision(Norm):
    """Its squares overflow in float16, where the operator's do not."""

    def forward(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (x * scale)


NORMS = {
    Clamped: "uses .clamp",
    Cleaned: "uses torch.nan_to_num",
    Counting: "writes self.calls",
    Logging: "uses .append",
    BySettings: "reads SETTINGS",
    ByText: "hands on its module",
    ByClassAttribute: "reads gain",
    ByProperty: "reads scale",
    ByLength: "branches on",
    InPlace: "y *= 1.0",
    ByInner: "calls lambda",
    OverTokens: "sums over more than its last dimension",
    OfHalfPrecision: "no known norm",
}


@pytest.mark.parametrize("kind", NORMS, ids=lambda kind: kind.__name__)
def test_a_norm_that_may_be_more_than_its_formula(kind):
    model = build()
    model.model.norm.__class__ = kind
    status = {row.path: row.status for row in patch(model).report()}["model.norm"]
    assert NORMS[kind] in status


class MLP(LlamaMLP):
    def formula(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Dropping(MLP):
    def forward(self, x):
        return F.dropout(self.formula(x), 0.0, self.training)


class InPairs(MLP):
    def forward(self, x):
        return self.formula(x), None


class OutOfAutocast(MLP):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.formula(x)


class ByDtype(MLP):
    def forward(self, x):
        return self.formula(x) if x.dtype == torch.float32 else 2 * self.formula(x)


class OfAChild(MLP):
    def forward(self, x):
        return self.formula(x) * self.act_fn.scale


class InPlace(MLP):
    """A hook on gate_proj holds what is written over."""

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x), True) * self.up_proj(x))


class Scaled(MLP):
    """What cancels keeps a product in float16 from being infinite."""

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * (self.up_proj(x) / 64)) * 64


class ScaledByMethods(MLP):
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)).mul(self.up_proj(x).div(64))).mul(64)


class ScaledByFunctions(MLP):
    def forward(self, x):
        up = torch.div(self.up_proj(x), 64)
        return torch.mul(self.down_proj(torch.mul(F.silu(self.gate_proj(x)), up)), 64)


class ScaledByNames(MLP):
    def forward(self, x):
        a, b = 0.015625, 64
        return self.down_proj(F.silu(self.gate_proj(x)) * (self.up_proj(x) * a)) * b


class ScaledByOthers(MLP):
    factor = 64.0

    def shrink(self, x):
        return x / self.factor

    def grow(self, x):
        return x * self.factor

    def forward(self, x):
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(self.shrink(x))
        return self.grow(self.down_proj(hidden))


class ScaledBySums(MLP):
    def forward(self, x):
        half = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x).div(2))
        return half + half


class ScaledBetween(MLP):
    """What cancels before the projection down overflows where the product does not."""

    def forward(self, x):
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x).mul(4)
        return self.down_proj(hidden.div(4))


class InAnotherDtype(MLP):
    """Keeps a product that float16 cannot hold, for a projection that may compute in float32."""

    def forward(self, x):
        hidden = F.silu(self.gate_proj(x)).float() * self.up_proj(x).float()
        return self.down_proj(hidden).to(x.dtype)


class CastForItsProjection(MLP):
    def forward(self, x):
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(hidden.float()).to(x.dtype)


class ScaledByOne(MLP):
    multiplier = 1.0

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x) * self.multiplier)


class Nested(MLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def with_activation(mlp, activation):
    mlp.act_fn = activation


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return F.silu(x) * self.scale


class Bounded(nn.Module):
    def forward(self, x):
        return torch.clip(F.silu(x), -1000, 1000)


MLPS = {
    (Dropping, None): "uses F.dropout",
    (InPairs, None): "no known gate",
    (OutOfAutocast, None): "with torch.autocast",
    (ByDtype, None): "branches on its input",
    (OfAChild, None): "uses .scale",
    (Scaled, None): "it scales what it computes",
    (ScaledByMethods, None): "no known gate",
    (ScaledByFunctions, None): "no known gate",
    (ScaledByNames, None): "no known gate",
    (ScaledByOthers, None): "no known gate",
    (ScaledBySums, None): "no known gate",
    (ScaledBetween, None): "no known gate",
    (InAnotherDtype, None): "no known gate",
    (CastForItsProjection, None): "no known gate",
    (InPlace, None): "works in place",
    (Nested, lambda: partial(F.silu, inplace=True)): "works in place",
    (Nested, partial(nn.SiLU, True)): "works in place",
    (Nested, Trained): "reads the parameter scale",
    (Nested, Bounded): "uses torch.clip",
    (Nested, partial(nn.Sequential, nn.SiLU())): "",
    (Nested, partial(nn.Dropout, 0.0)): "",
}


@pytest.mark.parametrize("kind, activation", MLPS)
def test_an_mlp_that_may_be_more_than_its_formula(kind, activation):
    model = build()
    mlp = model.model.layers[0].mlp
    mlp.__class__ = kind
    if activation is not None:
        del mlp.act_fn
        mlp.act_fn = activation()
    status = {row.path: row.status for row in patch(model).report()}["model.layers.0.mlp"]
    assert status != "patched"
    assert MLPS[kind, activation] in status


class Mixing(MLP):
    """One sequence alone is not mixed with others."""

    def forward(self, x):
        return self.formula(x.mean(0, keepdim=True).expand(x.shape))


def test_a_multiplier_of_one_scales_nothing():
    model = build()
    model.model.layers[0].mlp.__class__ = ScaledByOne
    assert {row.path: row.status for row in patch(model).report()}[
        "model.layers.0.mlp"
    ] == "patched"


class Activating(MLP):
    """Its activation is a method that it keeps as an attribute."""

    scale = 1.0

    def activate(self, x):
        return F.silu(x) * self.scale

    def forward(self, x):
        return self.down_proj(self.chosen(self.gate_proj(x)) * self.up_proj(x))


def test_a_method_of_another_module_is_another():
    model = build()
    mlp, other = model.model.layers[0].mlp, model.model.layers[1].mlp
    for one in (mlp, other):
        one.__class__ = Activating
        one.chosen = one.activate
    assert {row.path: row.status for row in patch(model).report()}[
        "model.layers.0.mlp"
    ] == "patched"
    other.scale, mlp.chosen = 2.0, other.activate
    x = torch.randn(2, 3, mlp.gate_proj.in_features)
    assert torch.allclose(mlp(x), Activating.forward(mlp, x), rtol=1e-5)


class Flattening(MLP):
    """Gives back three of four dimensions."""

    def forward(self, x):
        return self.formula(x.flatten(0, 1)).view(x.shape[0], x.shape[1], -1)


def test_an_mlp_of_more_dimensions_than_were_tried_runs_its_own_forward():
    model = build()
    mlp = model.model.layers[0].mlp
    mlp.__class__ = Flattening
    assert {row.path: row.status for row in patch(model).report()}[
        "model.layers.0.mlp"
    ] == "patched"
    width = mlp.gate_proj.in_features
    for shape in ((2, 3, width), (2, 3, 4, width)):
        assert mlp(torch.randn(shape)).shape == Flattening.forward(mlp, torch.randn(shape)).shape


class ToFloat(MLP):
    def forward(self, x):
        return self.formula(x).float()


@pytest.mark.parametrize("kind", [Mixing, ToFloat])
def test_an_mlp_is_tried_with_other_shapes_and_dtypes(kind):
    model = build()
    model.model.layers[0].mlp.__class__ = kind
    status = {row.path: row.status for row in patch(model).report()}["model.layers.0.mlp"]
    assert status != "patched"


def test_a_rotation_with_effects_is_left_alone(monkeypatch):
    from transformers.models.llama import modeling_llama

    seen = []

    def rotate_half(x):
        seen.append(x.shape)
        return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)

    monkeypatch.setattr(modeling_llama, "rotate_half", rotate_half)
    status = {row.path: row.status for row in patch(build()).report()}["model.layers.0.self_attn"]
    assert status != "patched"
    assert not seen


def test_what_is_refused_was_not_run():
    holder = nn.Sequential(nn.BatchNorm1d(8, affine=False), nn.InstanceNorm1d(8))
    state = copy.deepcopy(holder.state_dict())
    patch(holder)
    assert all(torch.equal(value, state[name]) for name, value in holder.state_dict().items())


class Sized(Norm):
    def __init__(self, size, gain):
        super().__init__(size)
        self.scale = gain

    def forward(self, x):
        return self.formula(x) * self.scale


def test_a_proof_is_shared_by_those_for_whom_its_guard_holds():
    holder = nn.ModuleList([Sized(16, (1.0,)[0]), Sized(16, 1), Norm(16), Norm(16)])
    for one, kind in zip(holder[2:], (1.0, 3.0)):
        one.__class__ = Sized
        one.__dict__["scale"] = kind
    x = torch.randn(2, 3, 16)
    expected = [Sized.forward(one, x) for one in holder]
    patch(holder)
    for one, wanted in zip(holder, expected):
        assert error(one(x), wanted) < 1e-6


def swapped_code(norm):
    function = type(norm).forward
    function.__code__ = (lambda self, x: 3 * self.formula(x)).__code__


def test_a_function_that_is_changed_in_place(monkeypatch):
    class Own(Norm):
        def forward(self, x):
            return self.formula(x)

    holder = nn.Sequential(Own(16))
    patch(holder)
    x = torch.randn(2, 3, 16)
    before = holder(x)
    assert standing(holder[0]) is not None
    swapped_code(holder[0])
    assert error(holder(x), 3 * before) < 1e-6
    assert standing(holder[0]) is None


def test_a_decoder_layer_that_is_changed_in_place():
    """As IPython's autoreload does it."""

    model, reference = build(), build()
    forward = innermost(LlamaDecoderLayer.forward)
    code = forward.__code__
    patch(model)
    try:
        forward.__code__ = (lambda self, hidden_states, *args, **kwargs: hidden_states).__code__
        expected = loss_and_gradients(reference)
        assert_same_step(loss_and_gradients(model), expected)
    finally:
        forward.__code__ = code


class UpFirst(MLP):
    def forward(self, x):
        up = self.up_proj(x)
        return self.down_proj(F.silu(self.gate_proj(x)) * up)


class Noisy(nn.Linear):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


def test_projections_are_called_in_the_order_of_the_module():
    model, reference = build(), build()
    for one in (model, reference):
        mlp = one.model.layers[0].mlp
        mlp.__class__ = UpFirst
        mlp.gate_proj.__class__ = mlp.up_proj.__class__ = Noisy
    torch.manual_seed(5)
    expected = loss_and_gradients(reference)
    rows = {row.path: row.status for row in patch(model).report()}
    assert rows["model.layers.0.mlp"] == "patched"
    torch.manual_seed(5)
    assert_same_step(loss_and_gradients(model), expected)


class Drawn(nn.Module):
    """A weight that is another at each reading."""

    def __init__(self):
        super().__init__()
        self.readings = 0

    def forward(self, weight):
        self.readings += 1
        return weight * self.readings


def test_a_weight_that_is_computed_is_read_once():
    model = build()
    patch(model)
    norm = model.model.norm
    nn.utils.parametrize.register_parametrization(norm, "weight", Drawn(), unsafe=True)
    drawn = norm.parametrizations.weight[0]
    before = drawn.readings
    norm(torch.randn(2, 3, 32))
    assert drawn.readings == before + 1


def test_a_hook_on_one_activation_leaves_the_other_mlps_patched():
    for layer in (0, 1):
        model = build()
        mlp = model.model.layers[layer].mlp
        mlp.act_fn = copy.deepcopy(mlp.act_fn)
        mlp.act_fn.register_forward_hook(lambda *args: None)
        status = {row.path: row.status for row in patch(model).report()}
        assert "hooks" in status[f"model.layers.{layer}.mlp"]
        assert status[f"model.layers.{1 - layer}.mlp"] == "patched"


class Pairs(LlamaAttention):
    """The file has the other function by the same name."""

    of_the_file = apply_rotary_pos_emb

    def forward(self, hidden_states, position_embeddings):
        from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb

        cos, sin = position_embeddings
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        k = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        return torch.cat((q, k), dim=1)


def test_a_rotary_function_that_a_forward_imports_is_not_that_of_its_file():
    attention = build().model.layers[0].self_attn
    attention.__class__ = Pairs
    x = torch.randn(1, 5, attention.q_proj.in_features)
    angles = torch.rand(1, 5, attention.head_dim)
    tables = angles.cos(), angles.sin()
    layer = nn.Sequential(attention)
    expected = attention(x, tables)
    patch(layer)
    assert torch.equal(layer[0](x, tables), expected)
