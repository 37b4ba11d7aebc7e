"""Eager PyTorch, as the modules of Hugging Face transformers are written.

On float64 inputs these are also what errors are measured against.
"""

import torch
import torch.nn.functional as F

EPS = 1e-6


def _wide(x):
    """As `.float()` there, but float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x, weight):
    wide = _wide(x)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * normed.to(x.dtype)


def fused_add_rms_norm(x, residual, weight):
    total = x + residual
    return rms_norm(total, weight), total


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def swiglu(gate, up):
    return F.silu(gate) * up


def geglu(gate, up):
    return F.gelu(gate, approximate="tanh") * up


def packed_glu(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def clamped_swiglu(gate_up):
    gate, up = gate_up[..., ::2], gate_up[..., 1::2]
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


def activate(x, bias):
    return F.gelu(x + bias, approximate="tanh")


def rope(q, k, cos, sin):
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + _turned(q) * sin, k * cos + _turned(k) * sin


def qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    return rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)


def _turned(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def cross_entropy(logits, target):
    return F.cross_entropy(_wide(logits), target)


def fused_linear_cross_entropy(input, weight, target):
    return cross_entropy(F.linear(input, weight), target)
