"""Liger Kernel, with the defaults that its patches use."""

import torch
from liger_kernel.transformers import functional

from .eager import EPS

mhc_coeffs = functional.liger_mhc_coeffs
mhc_post_res = functional.liger_mhc_post_res
mhc_pre = functional.liger_mhc_pre
rope = functional.liger_rope
fused_linear_cross_entropy = functional.liger_fused_linear_cross_entropy


def rms_norm(x, weight):
    return functional.liger_rms_norm(x, weight, EPS)


def qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    return rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)


def fused_add_rms_norm(x, residual, weight):
    return functional.liger_fused_add_rms_norm(x, residual, weight, EPS)


def layer_norm(x, weight, bias):
    return functional.liger_layer_norm(x, weight, bias, EPS)


def swiglu(gate, up):
    return functional.liger_swiglu(gate, up)


def geglu(gate, up):
    return functional.liger_geglu(gate, up)


def cross_entropy(logits, target):
    return functional.liger_cross_entropy(logits, target)


def attn_res(v, w_query, w_norm):
    return functional.liger_attn_res(v, w_query, w_norm, EPS)


def mhc_forward(x, phi, b, alpha_pre, alpha_post, alpha_res):
    return functional.liger_mhc_forward(
        x, torch.nn.Identity(), phi, b, alpha_pre, alpha_post, alpha_res
    )
