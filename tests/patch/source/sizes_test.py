"""What a forward may do with sizes, and with parts of its input, if it is to be replaced."""

import sys
from functools import partial

import pytest
import torch
from liger_jit.patch import patch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, rotate_half

# One parameter, x, and what is done with it: each is the identity, or times one, in small probes.
OF_X = {
    "by a count of tokens": "x * (1 + x.shape[1] // 64)",
    "by a count that has a name": "n = x.shape[1]; k = n // 64; x * (1 + k)",
    "by a count that is unpacked": "b, *rest = x.shape; x",
    "by a count of leading sizes": "*n, d = x.shape; x * (1 + len(n) // 8)",
    "by a number of groups": "*n, d = x.shape; x * (1 + d // 64)",
    "by an unpacked size": "b, t, d = x.shape; x * (1 + t // 64)",
    "by a length": "x * (1 + len(x) // 64)",
    "by an asked size": "x * (1 + x.size(1) // 64)",
    "by a number of elements": "x * (1 + x.numel() // 100000)",
    "by a remainder": "x * (1 + 0 * (x.shape[1] % 64))",
    "by a power": "x * 1.0 ** x.shape[1]",
    "by the least": "x * min(x.shape[1], 1)",
    "by an int": "x * (1 + int(x.shape[1] / 64))",
    "by a size of a helper": "x * (1 + size_of(x) // 64)",
    "by a size to a helper": "scaled(x, x.shape[1])",
    "by a width": "x * (1 + x.shape[-1] // 512)",
    "by an eighth": "h = x.shape[-1] // 2; x + 0 * x[..., : h // 256]",
    "by a position": "x + 0 * torch.arange(x.shape[1])[:, None]",
    "up to a number of tokens": "x[:, :64]",
    "up to a number, without its first dimension": "x[..., :64, :]",
    "up to a named number": "x[:, : self.most]",
    "up to a number of the width": "x[..., :4096]",
    "up to a width of tokens": "x.transpose(1, 2)[..., : x.shape[-1] * 8].transpose(1, 2)",
    "up to a width of moved tokens": "x.transpose(1, 2)[..., : x.shape[-1]].transpose(1, 2)",
    "by a slice": "x[slice(0, 64)]",
    "the first part": "x.split(64, 1)[0]",
    "the first part by name": "x.split(split_size=64, dim=1)[0]",
    "the first of many parts": "torch.chunk(x, 64, dim=1)[0] + 0 * x",
    "the first row": "x + 0 * x[0]",
    "the last row": "x + 0 * x[:, -1:]",
    "the sum of ones": "x + torch.erf((0 * x + 1).sum(1, keepdim=True) - 500) + 1",
    "the sum of moved ones": "x + 0 * (0 * x).transpose(1, 2).sum(-1, keepdim=True).sum()",
    "the mean of a mean": "x + 0 * x.mean(-1).mean(-1)",
    "the mean of all": "x + 0 * x.mean()",
    "without ones": "x.squeeze()",
    "without a first one": "x.squeeze(0)",
    "whole": "x + x // 1e9",
    "divided and rounded": "x + torch.div(x, 1e9, rounding_mode='trunc')",
    "of a type": "x + (x * 1e-9).to(torch.int32)",
    "of a type by name": "x + (x * 1e-9).type('torch.IntTensor')",
    "cumulated": "x + 0 * x.cumsum(1)",
    "flipped": "x + 0 * x.flip(1)",
    "rolled": "x + 0 * x.roll(1, 1)",
    "of a triangle": "x + 0 * torch.tril(x)",
    "in one branch": "n = 2 if self.training else x.shape[1]; x * (1 + n // 64)",
}


def size_of(x):
    return x.shape[1]


def scaled(x, size):
    return x * (1 + size // 64)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What a file of that text defines: functions have their source there."""

    def make(text):
        (tmp_path / "made_for_test.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "made_for_test", raising=False)
        module = __import__("made_for_test")
        vars(module).update(
            torch=torch, F=F, rms=LlamaRMSNorm, size_of=size_of, scaled=scaled, half=rotate_half
        )
        return module

    return make


def body(text, last):
    """Lines of a function that runs all but the last part of a text and returns `last` of that."""
    *first, value = text.split("; ")
    return "".join(f"    {line}\n" for line in (*first, f"x = {value}", f"return {last}"))


def status_of(module):
    return {row.path: row.status for row in patch(nn.Sequential(module)).report()}["0"]


def names_what_it_does(status):
    return status.startswith(("forward ", "apply ", "rotated ", "size_of ", "scaled "))


SMALL = LlamaConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4)
NORM_OF_FLOAT = (
    "(self.weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True)"
    " + self.variance_epsilon)).to(x.dtype))"
)
NORM = "self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))"
GATED = "self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))"


def norm_status(module):
    norm = type("Norm", (LlamaRMSNorm,), {"forward": module.forward})(32)
    norm.most = 64
    return status_of(norm)


def mlp_status(module):
    mlp = type("MLP", (LlamaMLP,), {"forward": module.forward})(SMALL)
    mlp.most = 64
    return status_of(mlp)


@pytest.mark.parametrize("text", OF_X.values(), ids=OF_X)
def test_a_norm_knows_no_size_that_its_probe_may_not_have(text, made):
    module = made("def forward(self, x):\n" + body(text, NORM))
    assert names_what_it_does(norm_status(module))


@pytest.mark.parametrize("text", OF_X.values(), ids=OF_X)
def test_an_mlp_knows_no_size_that_its_probe_may_not_have(text, made):
    module = made("def forward(self, x):\n" + body(text, GATED))
    assert names_what_it_does(mlp_status(module))


ROTATED = "x * cos.unsqueeze(unsqueeze_dim) + half(x) * sin.unsqueeze(unsqueeze_dim)"


def with_rotation(monkeypatch, make, text, parameters="q, k, cos, sin, unsqueeze_dim=1"):
    module = make(f"def rotated(x, cos, sin, unsqueeze_dim):\n{text}\ndef apply({parameters}):\n"
                  "    return (rotated(q, cos, sin, unsqueeze_dim),"
                  " rotated(k, cos, sin, unsqueeze_dim))\n")  # fmt: skip
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", module.apply)
    status = status_of(modeling_llama.LlamaAttention(SMALL, 0))
    return status.removeprefix("apply_rotary_pos_emb: ")


@pytest.mark.parametrize(
    "text", [text for text in OF_X.values() if "self" not in text], ids=lambda text: text
)
def test_a_rotation_knows_no_size_that_its_probe_may_not_have(text, made, monkeypatch):
    text = text.replace("shape[1]", "shape[-2]")
    status = with_rotation(monkeypatch, made, body(text, ROTATED))
    assert names_what_it_does(status)


TABLES = {
    "both halves": ("cos", "sin", True),
    "the first half": ("twice(cos[..., : cos.shape[-1] // 2])",) * 2 + (False,),
    "the second half": ("twice(cos[..., cos.shape[-1] // 2 :])",) * 2 + (False,),
}


@pytest.mark.parametrize("cos, sin, fused", TABLES.values(), ids=TABLES)
def test_a_rotation_is_tried_on_tables_whose_halves_are_two(cos, sin, fused, made, monkeypatch):
    sin = sin.replace("cos", "sin")
    text = f"    cos, sin = {cos}, {sin}\n    return {ROTATED}\n"
    text += "\ndef twice(x):\n    return torch.cat((x, x), dim=-1)\n"
    status = with_rotation(monkeypatch, made, text)
    assert (status == "patched") == fused
    assert fused or "differs" in status


IGNORING = "x * cos.unsqueeze(1) + half(x) * sin.unsqueeze(1)"


def test_a_rotation_is_tried_with_heads_in_both_places(made, monkeypatch):
    status = with_rotation(monkeypatch, made, f"    return {IGNORING}\n")
    assert "it takes no tables" in status or "differs" in status


MAY = {
    "of a shape": "x.view(x.shape[0], -1, x.shape[-1]).reshape(x.shape)",
    "of a spread shape": "x.view(*x.shape[:-1], -1)",
    "of an unpacked shape": "b, t, d = x.shape; x.view(b, t, d)",
    "of groups": "*n, d = x.shape; x.view(*n, d // 4, 4).view(*n, d // 4 * 4)",
    "of what is smooth": "x + (torch.tanh(x) - torch.tanh(x))",
    "of halves": "torch.cat((x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]), dim=-1)",
    "of named halves": "h = x.size(-1) // 2; torch.cat((x[..., :h], x[..., h:]), dim=-1)",
    "of chunks": "a, b = x.chunk(2, dim=-1); torch.cat((a, b), dim=-1)",
    "of parts": "p = x.split(x.shape[-1] // 2, dim=-1); torch.cat((p[0], p[1]), dim=-1)",
}


@pytest.mark.parametrize("text", MAY.values(), ids=MAY)
def test_an_mlp_may_use_sizes_for_shapes_and_halves(text, made):
    if "b, t, d" in text:  # which are three
        text = text.replace("x.view", "x.reshape")
    module = made("def forward(self, x):\n" + body(text, GATED))
    assert mlp_status(module) == "patched"


def test_a_norm_may_divide_by_its_width(made):
    text = "x.float() * torch.rsqrt(x.float().pow(2).sum(-1, keepdim=True) / n + EPS)"
    text = f"self.weight * ({text}).to(x.dtype)".replace("EPS", "self.variance_epsilon")
    module = made(f"def forward(self, x):\n    n = x.shape[-1]\n    return {text}\n")
    assert norm_status(module) == "patched"


OUTLIERS = {
    "bounded": "5000 * torch.tanh(x / 5000)",
    "gated": "x * torch.sigmoid(50 - x / 1000)",
}


@pytest.mark.parametrize("text", OUTLIERS.values(), ids=OUTLIERS)
def test_what_acts_on_outliers_alone_is_seen(text, made, monkeypatch):
    module = made("def forward(self, x):\n" + body(f"x.float(); {text}", GATED))
    assert "scales what it computes" in mlp_status(module)
    module = made("def forward(self, x):\n" + body(text, NORM_OF_FLOAT))
    assert "differs" in norm_status(module)
    assert "differs" in with_rotation(monkeypatch, made, body(text, ROTATED))


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.summed = partial(torch.sum, dim=1, keepdim=True)

    def forward(self, x):
        return F.silu(x) + 0 * self.summed(x)


def test_a_function_with_arguments_of_its_own_is_no_way_around():
    mlp = LlamaMLP(SMALL)
    mlp.act_fn = Squared()
    assert "calls a partial sum" in status_of(mlp)
