"""A term that a formula has not is seen by its probe, however small beside values of size 1."""

import pytest
import torch
from family_models import tiny
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules import rope, rotary_complex, rotary_rows
from liger_jit.patch.rules.rotary_form import USUAL
from torch import nn
from torch.nn import functional as F
from transformers.models.llama import modeling_llama
from transformers.models.llama4 import modeling_llama4
from transformers.models.qwen2_vl import modeling_qwen2_vl

WIDTH, TERM = 16, 1e-10


class Silu(nn.Module):
    def __init__(self, term=0.0):
        super().__init__()
        self.term = term

    def forward(self, x):
        return F.silu(x) + self.term


class QuickGelu(Silu):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x) + self.term


class Mlp(nn.Module):
    kind = Silu

    def __init__(self, where=None):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, 24, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(24, WIDTH, bias=False)
        self.act_fn = self.kind(TERM if where == "activation" else 0.0)
        self.before, self.after = (TERM if where == name else 0.0 for name in ("before", "after"))


class Gated(Mlp):
    def forward(self, x):
        x = x + self.before
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + self.after


class GatedCall(Mlp):
    """Of which the gate alone is replaced."""

    def forward(self, x):
        y = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(F.dropout(y, 0.0, self.training))


class Plain(Mlp):
    kind = QuickGelu

    def __init__(self, where=None):
        super().__init__(where)
        del self.gate_proj

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x + self.before))) + self.after


class PlainCall(Plain):
    """Of which the call of the activation alone is replaced."""

    def forward(self, x):
        return self.down_proj(F.dropout(self.act_fn(self.up_proj(x)), 0.0, self.training))


class Norm(nn.Module):
    def __init__(self, where=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.eps = 1e-6
        self.before, self.at_weight, self.after = (
            TERM if where == name else 0.0 for name in ("before", "weight", "after")
        )

    def normed(self, x):
        y = x.float() + self.before
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return (self.weight + self.at_weight) * self.normed(x).to(x.dtype) + self.after


class NormByMean(Norm):
    def normed(self, x):
        y = x.float() + self.before
        y = y - y.mean(-1, keepdim=True)
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        y = (self.weight.float() + self.at_weight) * self.normed(x)
        return (y + self.after).to(x.dtype)


class NormWithGate(Norm):
    def forward(self, x, gate):
        y = (self.weight + self.at_weight) * self.normed(x).to(x.dtype)
        return (y * (F.silu(gate.float()) + self.after)).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    def __init__(self, where=None):
        super().__init__(WIDTH)
        self.before, self.at_weight, self.after = (
            TERM if where == name else 0.0 for name in ("before", "weight", "after")
        )

    def forward(self, x):
        weight = self.weight + self.at_weight
        x = x + self.before
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps) + self.after


CALLS = (GatedCall, PlainCall)
MLPS = (Gated, Plain)
NORMS = (Norm, NormByMean, NormWithGate, LayerNorm)


def is_patched(module):
    return patch(nn.Sequential(module)).report()[0].patched


@pytest.mark.parametrize("kind", [*CALLS, *MLPS, *NORMS])
def test_without_the_term_it_is_replaced(kind):
    assert is_patched(kind())


# A mean takes away what is added to all of a row.
@pytest.mark.parametrize(
    "kind, where",
    [
        *((kind, "activation") for kind in (*CALLS, *MLPS)),
        *((kind, where) for kind in MLPS for where in ("before", "after")),
        *((kind, "before") for kind in (Norm, NormWithGate)),
        *((kind, where) for kind in NORMS for where in ("weight", "after")),
    ],
)
def test_a_small_term_is_seen(kind, where):
    assert not is_patched(kind(where))


def test_a_small_term_of_experts_is_seen():
    model, _ = tiny("qwen3_moe")
    experts = {n: m for n, m in model.named_modules() if type(m).__name__.endswith("Experts")}
    for index, one in enumerate(experts.values()):
        one.act_fn = Silu(TERM * index)
    assert len(experts) == 2
    status = {row.path: row.patched for row in patch(model).report() if row.path in experts}
    assert list(status.values()) == [True, False]


def shifted(function):
    def rotate(*args):
        return tuple(x + TERM for x in function(*args))

    return rotate


def rotate_heads(q, k, cos, sin, unsqueeze_dim=1):
    q, k = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
    return q + TERM, k + TERM


def rotate_rows(q, k, cos, sin):
    return shifted(modeling_qwen2_vl.apply_rotary_pos_emb_vision)(q, k, cos, sin)


def rotate_pairs(q, k, freqs):
    return shifted(modeling_llama4.apply_rotary_emb)(q, k, freqs)


def test_a_small_term_of_a_rotation_is_seen():
    with pytest.raises(Mismatch, match="differs"):
        rope.check_form(rope.RotaryFunction("rotate", rotate_heads, True, USUAL), WIDTH)
    with pytest.raises(Mismatch, match="differs"):
        rotary_rows.check_formula(rotate_rows, WIDTH, (WIDTH,))
    with pytest.raises(Mismatch, match="differs"):
        rotary_complex.check_formula(rotate_pairs, rotary_complex.Factors(2), WIDTH, (WIDTH,))
