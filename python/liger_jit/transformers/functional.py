"""Liger Kernel's functions under their names and signatures, on liger_jit's operators.

Arguments that steer an implementation which does not exist here are accepted and do nothing:
`in_place` (inputs are never changed), `chunk_mem_const` (chunks are chosen from the sizes),
`position_ids` (cos and sin are already those of the positions), `size_average` and `reduce`
(superseded by `reduction` in torch as well). What each function computes stands in
`liger_jit.functional`.
"""

import torch

from .. import functional as F
from ..functional import CrossEntropyOutput

__all__ = [
    "CrossEntropyOutput",
    "liger_attn_res",
    "liger_cross_entropy",
    "liger_fused_add_rms_norm",
    "liger_fused_linear_cross_entropy",
    "liger_geglu",
    "liger_layer_norm",
    "liger_mhc_apply",
    "liger_mhc_coeffs",
    "liger_mhc_forward",
    "liger_mhc_post_res",
    "liger_mhc_pre",
    "liger_rms_norm",
    "liger_rope",
    "liger_swiglu",
]


def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    """`functional.rms_norm`; returns X's dtype whatever the weight's."""
    return F.rms_norm(X, W, eps, offset, casting_mode)


def liger_fused_add_rms_norm(X, R, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    """`functional.fused_add_rms_norm`: (normalised sum, sum X + R)."""
    return F.fused_add_rms_norm(X, R, W, eps, offset, casting_mode)


def liger_layer_norm(X, W, B, eps):
    """`functional.layer_norm`."""
    return F.layer_norm(X, W, B, eps)


def liger_swiglu(a, b):
    """silu(a) * b: `functional.swiglu`."""
    return F.swiglu(a, b)


def liger_geglu(a, b):
    """gelu(a) * b in the tanh form: `functional.geglu`."""
    return F.geglu(a, b)


def liger_rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    """`functional.rope`: (q, k) rotated, as new tensors.

    rotary_dim, where given, must be the length of cos and sin: they say how much of a head rotates.
    """
    if rotary_dim is not None and rotary_dim != cos.shape[-1]:
        raise ValueError(
            f"liger_rope: rotary_dim={rotary_dim} does not fit cos, whose last dimension is "
            f"{cos.shape[-1]}; pass cos and sin of the rotated part"
        )
    return F.rope(q, k, cos, sin, unsqueeze_dim)


def liger_attn_res(V, w_query, w_norm, eps=1e-6):
    """`functional.attn_res`."""
    return F.attn_res(V, w_query, w_norm, eps)


def liger_cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
    lse_square_scale=0.0,
    softcap=None,
    return_z_loss=False,
    return_token_accuracy=False,
    return_predicted_tokens=False,
):
    """`functional.cross_entropy`: the loss, or a CrossEntropyOutput with any return flag."""
    return F.cross_entropy(
        input,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        lse_square_scale,
        softcap,
        None,
        return_z_loss,
        return_token_accuracy,
        return_predicted_tokens,
    )


def liger_fused_linear_cross_entropy(
    input,
    weight,
    target,
    bias=None,
    ce_weight=None,
    ignore_index=-100,
    lse_square_scale=0.0,
    label_smoothing=0.0,
    reduction="mean",
    softcap=None,
    return_z_loss=False,
    accum_dtype=None,
    use_token_scaling=False,
    return_token_accuracy=False,
    return_predicted_tokens=False,
    chunk_mem_const=1,
):
    """`functional.fused_linear_cross_entropy`: the loss, or a CrossEntropyOutput with any flag."""
    return F.fused_linear_cross_entropy(
        input,
        weight,
        target,
        bias,
        ce_weight,
        ignore_index,
        reduction,
        label_smoothing,
        lse_square_scale,
        softcap,
        None,
        use_token_scaling,
        accum_dtype,
        return_z_loss=return_z_loss,
        return_token_accuracy=return_token_accuracy,
        return_predicted_tokens=return_predicted_tokens,
    )


def _need_half(op, x, allow_fp32):
    if x.dtype == torch.float32 and not allow_fp32:
        raise ValueError(f"{op}: x has dtype float32; allowed: bfloat16, float16; or allow_fp32")


def liger_mhc_coeffs(
    x,
    phi,
    b,
    alpha_pre,
    alpha_post,
    alpha_res,
    *,
    allow_fp32=False,
    tmax=20,
    rms_eps=1e-6,
    pre_eps=0.0,
    sinkhorn_eps=1e-6,
    post_mult=2.0,
):
    """`functional.mhc_coeffs`; float32 streams are taken with allow_fp32."""
    _need_half("liger_mhc_coeffs", x, allow_fp32)
    return F.mhc_coeffs(
        x,
        *(phi, b, alpha_pre, alpha_post, alpha_res),
        tmax=tmax,
        rms_eps=rms_eps,
        pre_eps=pre_eps,
        sinkhorn_eps=sinkhorn_eps,
        post_mult=post_mult,
    )


def liger_mhc_pre(x, h_pre):
    """`functional.mhc_pre`."""
    return F.mhc_pre(x, h_pre)


def liger_mhc_post_res(x, f_out, h_post, h_res):
    """`functional.mhc_post_res`."""
    return F.mhc_post_res(x, f_out, h_post, h_res)


def liger_mhc_apply(x, f_out, h_pre, h_post, h_res, *, return_x_in=False):
    """`functional.mhc_post_res`; with return_x_in (x_out, x_in), the latter of `mhc_pre`."""
    x_out = F.mhc_post_res(x, f_out, h_post, h_res)
    return (x_out, F.mhc_pre(x, h_pre)) if return_x_in else x_out


def liger_mhc_forward(
    x,
    layer,
    phi,
    b,
    alpha_pre,
    alpha_post,
    alpha_res,
    *,
    allow_fp32=False,
    tmax=20,
    rms_eps=1e-6,
    pre_eps=0.0,
    sinkhorn_eps=1e-6,
    post_mult=2.0,
    return_coeffs=False,
):
    """`functional.mhc_forward`; float32 streams are taken with allow_fp32."""
    _need_half("liger_mhc_forward", x, allow_fp32)
    return F.mhc_forward(
        x,
        *(phi, b, alpha_pre, alpha_post, alpha_res),
        layer,
        tmax=tmax,
        rms_eps=rms_eps,
        pre_eps=pre_eps,
        sinkhorn_eps=sinkhorn_eps,
        post_mult=post_mult,
        return_coeffs=return_coeffs,
    )
