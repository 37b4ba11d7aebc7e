"""RMS norms with a gate: each form is recognised, and what only looks like one stays."""

import copy
import inspect
import itertools

import pytest
import torch
import transformers
from family_models import DELTA_NET, step_of, tiny
from liger_jit.patch import patch
from tiny_models import assert_same_step, build, counted, error, shape_of
from torch import nn
from torch.nn import functional as F
from transformers import activations
from transformers.activations import ACT2FN
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated

WIDTH = 32
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class Gated(nn.Module):
    """As Qwen3-Next writes it."""

    def __init__(self, activation="silu", group_size=8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.eps, self.activation, self.group_size = 1e-5, activation, group_size

    def scaled(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x, gate):
        y = self.weight * self.scaled(x.to(torch.float32)).to(x.dtype)
        return (y * ACT2FN[self.activation](gate.to(torch.float32))).to(x.dtype)


class RoundedOnce(Gated):
    """Kimi Linear's."""

    def forward(self, x, gate=None):
        y = self.weight.to(torch.float32) * self.scaled(x.to(torch.float32))
        return (y * torch.sigmoid(gate.to(torch.float32))).to(x.dtype)


class GateFirst(Gated):
    """Mamba-2's, whose rows are normalised in groups."""

    def forward(self, x, gate=None):
        y = x.to(torch.float32)
        if gate is not None:
            y = y * F.silu(gate.to(torch.float32))
        *leading, width = x.shape
        groups = width // self.group_size
        y = self.scaled(y.view(*leading, groups, self.group_size))
        return self.weight * y.view(*leading, groups * self.group_size).to(x.dtype)


class GateFirstWhole(Gated):
    def forward(self, x, gate):
        return self.weight * self.scaled(x.float() * F.silu(gate.float())).to(x.dtype)


class OfSequences(Gated):
    """As Falcon-H1 writes it, whose rows are normalised in so many groups."""

    def __init__(self, groups=4, gate_first=False):
        super().__init__()
        self.groups, self.gate_first = groups, gate_first

    def forward(self, x, gate=None):
        dtype = x.dtype
        dimensions = x.ndim
        if self.gate_first and gate is not None:
            x = x * F.silu(gate.to(torch.float32))
        if len(x.shape) == 3:
            batch, tokens, width = x.shape
        else:
            batch, width = x.shape
            tokens = 1
        y = x.to(torch.float32).view(batch, tokens, self.groups, int(width // self.groups))
        y = self.weight.view(self.groups, int(width // self.groups)) * self.scaled(y)
        y = y.view(batch, tokens, width)
        if dimensions == 2:
            y = y.squeeze(1)
        if not self.gate_first and gate is not None:
            y = y * F.silu(gate.to(torch.float32))
        return y.to(dtype)


def falcon(**options):
    norm = FalconH1RMSNormGated(WIDTH, eps=1e-5, **options)
    nn.init.normal_(norm.weight)
    return norm


# In earlier releases Falcon-H1's drops a dimension of one token, which a probe may not see.
ASKS_FOR_DIMENSIONS = "ndim" in inspect.getsource(FalconH1RMSNormGated.forward)
OF_SEQUENCES = {
    "first": lambda: OfSequences(gate_first=True),
    "last": OfSequences,
    "one_group": lambda: OfSequences(groups=1),
    "falcon_first": lambda: falcon(n_groups=2, norm_before_gate=False),
    "falcon_last": lambda: falcon(n_groups=8, norm_before_gate=True),
}


def row(norm):
    return patch(nn.Sequential(norm)).report()[0]


def step(norm, x, gate):
    y = norm(x, gate)
    return [y, *torch.autograd.grad(y.float().sin().sum(), (x, gate, norm.weight))]


def inputs(dtype=torch.float32, gate_dtype=None, shape=(3, 5, WIDTH)):
    x, gate = torch.randn(2, *shape)
    return x.to(dtype).requires_grad_(), gate.to(gate_dtype or dtype).requires_grad_()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "make",
    [
        Gated, lambda: Gated("sigmoid"), lambda: Gated("swish"), RoundedOnce, GateFirst,
        lambda: GateFirst(group_size=WIDTH), GateFirstWhole,
    ],
    ids=["silu", "sigmoid", "swish", "rounded_once", "groups", "one_group", "whole"],
)  # fmt: skip
def test_each_form_is_found(make, dtype, monkeypatch):
    norm = make().to(dtype)
    for shape in ((7, WIDTH), (3, 5, WIDTH), (2, 3, 4, WIDTH)):
        x, gate = inputs(dtype, shape=shape)
        expected = step(copy.deepcopy(norm), x, gate)
        with patch(nn.Sequential(norm)) as handle, counted(monkeypatch) as calls:
            told = handle.report()[0]
            assert (told.role, told.status) == ("gated_rms_norm", "patched")
            found = step(norm, x, gate)
        assert calls["gated_rms_norm"] == 1
        for mine, own in zip(found, expected, strict=True):
            assert mine.dtype == own.dtype
            assert error(mine, own) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("make", OF_SEQUENCES.values(), ids=OF_SEQUENCES)
def test_one_that_asks_for_dimensions_is_found_for_those_of_sequences(make, dtype, monkeypatch):
    norm = make().to(dtype)
    if type(norm) is FalconH1RMSNormGated and not ASKS_FOR_DIMENSIONS:
        pytest.skip("another forward")
    for shape, taken in (((3, 5, WIDTH), 1), ((1, 1, WIDTH), 1), ((7, WIDTH), 0)):
        x, gate = inputs(dtype, shape=shape)
        expected = step(copy.deepcopy(norm), x, gate)
        with patch(nn.Sequential(norm)) as handle, counted(monkeypatch) as calls:
            assert handle.report()[0].status == "patched"
            found = step(norm, x, gate)
        assert calls["gated_rms_norm"] == taken
        for mine, own in zip(found, expected, strict=True):
            assert mine.dtype == own.dtype and mine.shape == own.shape
            assert error(mine, own) <= TOLERANCE[dtype]


@pytest.mark.parametrize("kind", [Gated, RoundedOnce, GateFirst, OfSequences])
def test_mixed_dtypes_give_what_the_module_gives(kind):
    norm = kind()
    assert row(norm).patched
    for x_dtype, gate_dtype, weight_dtype in itertools.product(TOLERANCE, repeat=3):
        norm.to(weight_dtype)
        x, gate = inputs(x_dtype, gate_dtype)
        found, expected = norm(x, gate), kind.forward(norm, x, gate)
        assert found.dtype == expected.dtype
        # A last digit of 16 bits, where sums meet in another order, and not a rounding more.
        assert error(found, expected) <= (1e-6 if x_dtype == torch.float32 else 1e-3)


class Tanh(Gated):
    def forward(self, x, gate):
        return self.weight * self.scaled(x.float()).to(x.dtype) * torch.tanh(gate)


class OnePlusGate(Gated):
    def forward(self, x, gate):
        return self.weight * self.scaled(x) * (1 + F.silu(gate))


class Clamped(Gated):
    def forward(self, x, gate):
        return super().forward(x, gate.clamp(max=1e6))


class OtherGroups(GateFirst):
    """Groups of every so many elements, and not of neighbours."""

    def forward(self, x, gate):
        *leading, width = x.shape
        groups = width // self.group_size
        y = (x * F.silu(gate)).view(*leading, self.group_size, groups).transpose(-1, -2)
        return self.weight * self.scaled(y).transpose(-1, -2).reshape(x.shape)


class SomeGroups(GateFirst):
    """Which leaves the first row out of the norm."""

    def forward(self, x, gate):
        first, *leading, width = x.shape
        groups = width // self.group_size
        y = (x * F.silu(gate)).view(first, *leading, groups, self.group_size)
        return self.weight * self.scaled(y).view(x.shape)


class Residual(Gated):
    def forward(self, x, gate):
        return super().forward(x, gate) + 1e-3 * x


class OnlyInOtherDimensions(OfSequences):
    """A test of dimensions that may be others than those of the input."""

    def forward(self, x, gate=None):
        x = x.unsqueeze(1)
        factor = 2.0 if x.ndim == 3 else 1.0
        return self.weight * self.scaled(x.float()).to(x.dtype) * F.silu(gate) * factor


class ByTheWeightsDimensions(Gated):
    def forward(self, x, gate):
        weight = self.weight * 1
        return super().forward(x, gate) * (1 if weight.ndim == 3 else 2)


class OfTokens(OfSequences):
    """Asks for another size, of which a probe has few."""

    def forward(self, x, gate=None):
        if x.shape[1] == 100:
            return x
        return super().forward(x, gate)


class RowsOfTokens(OfSequences):
    """Groups of what is left, which are of several tokens."""

    def forward(self, x, gate=None):
        batch, _, width = x.shape
        y = self.scaled((x * F.silu(gate)).view(batch, width // self.groups, -1))
        return self.weight * y.view(x.shape)


class OfSevenths(OfSequences):
    def forward(self, x, gate=None):
        batch, tokens, width = x.shape
        y = self.scaled((x * F.silu(gate)).view(batch, tokens, self.groups, width // self.groups))
        return 1.01 * self.weight * y.view(batch, tokens, width)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Tanh, "no known gated norm"),
        (OnePlusGate, "no known gated norm"),
        (Residual, "no known gated norm"),
        (Clamped, "clamp"),
        (OtherGroups, "needs its last dimension"),
        (SomeGroups, "writes *leading"),
        (OnlyInOtherDimensions, "branches on its input"),
        (ByTheWeightsDimensions, "branches on its input"),
        (OfTokens, "branches on x.shape[1] == 100"),
        (RowsOfTokens, "needs its last dimension"),
        (OfSevenths, "no known gated norm"),
    ],
)
def test_what_only_looks_like_one_stays(kind, why):
    norm = kind()
    x, gate = inputs()
    expected = step(norm, x, gate)
    found = row(norm)
    assert not found.patched and why in found.status
    assert all(map(torch.equal, step(norm, x, gate), expected))


class Table(type(ACT2FN)):
    """Another table, which may make what it likes."""


class FromAnotherTable(Gated):
    def forward(self, x, gate):
        return self.weight * self.scaled(x) * TABLE[self.activation](gate)


TABLE = Table(ACT2FN)


def test_a_table_that_is_not_transformers_is_not_read():
    assert "calls TABLE[self.activation]" in row(FromAnotherTable()).status


@pytest.mark.parametrize("named", [False, True])
def test_a_call_without_the_gate_is_the_modules_own(named):
    norm = GateFirst()
    assert row(norm).patched
    x, gate = inputs()
    assert torch.equal(norm(x), GateFirst.forward(norm, x))
    found = norm(x, gate=gate) if named else norm(x, gate)
    assert error(found, GateFirst.forward(norm, x, gate)) <= 1e-6


def test_what_is_changed_after_the_patch_counts(monkeypatch):
    norm = Gated()
    x, gate = inputs()
    plain = Gated.forward(norm, x, gate)
    assert row(norm).patched

    def same():
        expected = Gated.forward(norm, x, gate)
        assert torch.equal(norm(x, gate), expected)  # its own forward
        return expected

    with monkeypatch.context() as changed:
        changed.setitem(ACT2FN, "silu", nn.Tanh)
        assert error(same(), plain) > 0.1
    with monkeypatch.context() as changed:
        changed.setattr(activations.SiLUActivation, "forward", lambda self, x: 2 * x)
        assert error(same(), plain) > 0.1
    with monkeypatch.context() as changed:
        changed.setattr(type(ACT2FN), "__getitem__", lambda self, name: torch.tanh)
        assert error(same(), plain) > 0.1
    with monkeypatch.context() as changed:
        more = {"__getitem__": lambda self, name: torch.tanh}
        changed.setattr(ACT2FN, "__class__", type("More", (type(ACT2FN),), more))
        assert error(same(), plain) > 0.1
    norm.activation = "sigmoid"
    assert error(same(), plain) > 0.1
    norm.activation = "silu"
    assert error(norm(x, gate), plain) <= 1e-6
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, result: seen.append(type(module).__name__)
    )
    try:
        norm(x, gate)
    finally:
        handle.remove()
    assert seen == ["SiLUActivation", "Gated"]


@pytest.mark.parametrize("kind", [Gated, RoundedOnce, GateFirst, OfSequences])
def test_a_gate_of_an_inference_mode_is_none_that_a_node_keeps(kind):
    norm, (x, gate) = kind(), inputs()
    with torch.inference_mode():
        gate = gate * 2
    expected = torch.autograd.grad(norm(x, gate).sum(), [x, norm.weight])
    handle = patch(nn.Sequential(norm))
    found = torch.autograd.grad(norm(x, gate).sum(), [x, norm.weight])
    assert all(map(torch.equal, found, expected))
    (found, *_) = handle.report()
    assert found.patched and found.own_calls == 1


def test_what_the_operator_does_not_take_runs_the_modules_own_forward():
    norm = Gated()
    assert row(norm).patched
    x, gate = inputs()
    assert torch.equal(norm(x, gate[:, :1]), Gated.forward(norm, x, gate[:, :1]))
    turned = x.detach().transpose(0, 1), gate.detach().transpose(0, 1)
    found, expected = norm(*turned), Gated.forward(norm, *turned)
    assert torch.equal(found, expected) and found.stride() == expected.stride()


@pytest.mark.parametrize("kind", [Gated, RoundedOnce, GateFirst, OfSequences])
def test_a_part_of_a_larger_tensor_gives_what_is_contiguous(kind, monkeypatch):
    """As of sequences that were padded to whole chunks of a scan."""
    norm = kind()
    assert row(norm).patched
    x, gate = (torch.randn(2, 8, 3 * WIDTH)[:, :5, :WIDTH].requires_grad_() for _ in range(2))
    expected = kind.forward(norm, x, gate)
    with counted(monkeypatch) as calls:
        found = norm(x, gate)
    assert calls["gated_rms_norm"] == 1
    assert found.stride() == expected.stride() and error(found, expected) <= 1e-6


def test_a_compiled_norm_has_no_break():
    norm = GateFirst()
    x, gate = inputs()
    expected = step(norm, x, gate)
    assert row(norm).patched
    found = step(torch.compile(norm, fullgraph=True, backend="aot_eager"), x, gate)
    assert all(error(*pair) <= 1e-5 for pair in zip(found, expected, strict=True))


def linear_attention(family, **own):
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(
        **DELTA_NET, hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=97,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, layer_types=["linear_attention", "full_attention"], **own,
    )  # fmt: skip
    return getattr(transformers, f"{family}ForCausalLM")(config).train()


FALCON = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8, "mamba_rms_norm": True}
MODELS = {
    "qwen3_next": lambda: tiny("qwen3_next"),
    "mamba2": lambda: build("Mamba2"),
    "olmo_hybrid": lambda: linear_attention("OlmoHybrid"),
    "falcon_h1": lambda: build("FalconH1", **FALCON),
    "falcon_h1_gate_first": lambda: build(
        "FalconH1", **FALCON, mamba_norm_before_gate=False, mamba_n_groups=2
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_before_and_is_taken_back(name, monkeypatch):
    if name.startswith("falcon") and not ASKS_FOR_DIMENSIONS:
        pytest.skip("another forward")
    made = MODELS[name]()
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    model, given = made if isinstance(made, tuple) else (made, {"input_ids": ids, "labels": ids})
    before, own = shape_of(model), step_of(model, given)
    handle = patch(model)
    assert "failed in the probe" not in str(handle.report())
    with counted(monkeypatch) as calls:
        assert_same_step(tensors(step_of(model, given)), tensors(own))
    assert calls["gated_rms_norm"] == handle.report().counts["gated_rms_norm"][0] > 0
    handle.unpatch()
    assert shape_of(model) == before
    again = step_of(model, given)
    assert again[0] == own[0]
    assert all(torch.equal(again[1][key], own[1][key]) for key in own[1])


def tensors(step):
    return torch.tensor(step[0]), step[1]
