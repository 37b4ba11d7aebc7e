"""Liger Kernel, with the defaults that its patches use."""

from liger_kernel.transformers import functional

from .eager import EPS

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


def softmax(x):
    return functional.liger_softmax(x)


def sparsemax(x):
    return functional.liger_sparsemax(x)


def cross_entropy(logits, target):
    return functional.liger_cross_entropy(logits, target)


def kl_div(input, target):
    return functional.liger_kl_div(input, target)


def jsd(input, target, labels=None):
    return functional.liger_jsd(input, target, labels)


def tvd(input, target, labels=None):
    return functional.liger_tvd(input, target, labels)


def ce_tvd(student, teacher, target):
    # Not above: where a release lacks it, the others still run.
    from liger_kernel.transformers.fused_ce_tvd import LigerFusedCETVDLoss

    return LigerFusedCETVDLoss()(student, teacher, target)
