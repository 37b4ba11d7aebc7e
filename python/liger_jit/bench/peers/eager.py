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


def rope(q, k, cos, sin):
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + _turned(q) * sin, k * cos + _turned(k) * sin


def qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    return rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)


def attn_res(v, w_query, w_norm):
    wide = _wide(v)
    key = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS) * _wide(w_norm)
    score = (key * _wide(w_query)).sum(-1, keepdim=True)
    return (torch.softmax(score, 0) * wide).sum(0).to(v.dtype)


def mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res):
    streams = x.shape[-2]
    flat = _wide(x).flatten(-2)
    mix = flat @ _wide(phi) * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + EPS)
    pre, post, res = mix.split([streams, streams, streams * streams], -1)
    of_pre, of_post, of_res = _wide(b).split([streams, streams, streams * streams])
    h_pre = torch.sigmoid(pre * alpha_pre + of_pre)
    h_post = 2 * torch.sigmoid(post * alpha_post + of_post)
    h_res = (res * alpha_res + of_res).unflatten(-1, (streams, streams)).softmax(-1) + EPS
    h_res = h_res / (h_res.sum(-2, keepdim=True) + EPS)
    for _ in range(19):
        h_res = h_res / (h_res.sum(-1, keepdim=True) + EPS)
        h_res = h_res / (h_res.sum(-2, keepdim=True) + EPS)
    return h_pre, h_post, h_res


def mhc_pre(x, h_pre):
    return (h_pre.unsqueeze(-1) * _wide(x)).sum(-2).to(x.dtype)


def mhc_post_res(x, f_out, h_post, h_res):
    mixed = h_res @ _wide(x) + h_post.unsqueeze(-1) * _wide(f_out).unsqueeze(-2)
    return mixed.to(x.dtype)


def mhc_forward(x, phi, b, alpha_pre, alpha_post, alpha_res):
    h_pre, h_post, h_res = mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res)
    return mhc_post_res(x, mhc_pre(x, h_pre), h_post, h_res)


def _turned(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def cross_entropy(logits, target):
    return F.cross_entropy(_wide(logits), target)


def fused_linear_cross_entropy(input, weight, target):
    return cross_entropy(F.linear(input, weight), target)
