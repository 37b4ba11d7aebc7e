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


def _turned(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def softmax(x):
    return F.softmax(x, -1)


def sparsemax(x):
    descending = _wide(x).sort(-1, descending=True).values
    sums = descending.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=sums.dtype)
    last = (descending * count > sums).sum(-1, keepdim=True)
    return (_wide(x) - sums.gather(-1, last - 1) / last).clamp(min=0).to(x.dtype)


def cross_entropy(logits, target):
    return F.cross_entropy(_wide(logits), target)


def fused_linear_cross_entropy(input, weight, target):
    return cross_entropy(F.linear(input, weight), target)


def kl_div(input, target):
    return F.kl_div(_wide(input), _wide(target), reduction="none").mean()  # "mean" warns


def jsd(input, target, labels=None):
    q, p = _wide(input), _wide(target)
    log_m = torch.lerp(q.exp(), p.exp(), 0.5).log()
    divergences = [F.kl_div(log_m, one, reduction="batchmean", log_target=True) for one in (p, q)]
    return sum(divergences) / 2


def tvd(input, target, labels=None):
    return (_wide(input) - _wide(target)).abs().mean() / 2


def ce_tvd(student, teacher, target):
    ce = F.cross_entropy(_wide(student), target, reduction="none")
    return ce, (softmax(_wide(student)) - softmax(_wide(teacher))).abs().sum(-1) / 2
