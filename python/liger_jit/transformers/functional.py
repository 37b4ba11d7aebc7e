"""Liger Kernel's functions under their names and signatures, on liger_jit's operators.

Arguments that steer an implementation which does not exist here are accepted and do nothing:
`in_place` (inputs are never changed), `chunk_mem_const` (chunks are chosen from the sizes),
`size_average` and `reduce` (superseded by `reduction` in torch as well). What each function
computes stands in `liger_jit.functional`.
"""

import torch

from .. import functional as F
from ..functional import CrossEntropyOutput
from ..patch.loss import replaced
from . import loss_forms, rotary_tables
from .two_dtypes import alike, computed_wide, turned

__all__ = [
    "CrossEntropyOutput",
    "liger_attn_res",
    "liger_cross_entropy",
    "liger_dyt",
    "liger_fused_add_rms_norm",
    "liger_fused_linear_cross_entropy",
    "liger_fused_linear_jsd",
    "liger_fused_linear_kl_div",
    "liger_fused_linear_scaled_cross_entropy_tp",
    "liger_fused_neighborhood_attention",
    "liger_geglu",
    "liger_group_norm",
    "liger_jsd",
    "liger_kl_div",
    "liger_layer_norm",
    "liger_poly_norm",
    "liger_relu_squared",
    "liger_llama4_text_rope",
    "liger_llama4_vision_rope",
    "liger_qwen2vl_mrope",
    "liger_multi_token_attention",
    "liger_modulated_rms_norm",
    "liger_mhc_apply",
    "liger_mhc_coeffs",
    "liger_mhc_forward",
    "liger_mhc_post_res",
    "liger_mhc_pre",
    "liger_rms_norm",
    "liger_rope",
    "liger_softmax",
    "liger_sparsemax",
    "liger_swiglu",
    "liger_tvd",
]


def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    """`functional.rms_norm`; returns X's dtype whatever the weight's."""
    return F.rms_norm(X, W, eps, offset, casting_mode)


def liger_fused_add_rms_norm(X, R, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    """`functional.fused_add_rms_norm`: (normalised sum, sum X + R), of X's dtype.

    With R of another dtype, as under autocast, both are computed in the wider.
    """
    return computed_wide(F.fused_add_rms_norm, X, R, W, eps, offset, casting_mode)


def liger_modulated_rms_norm(
    X, W, scale, shift=None, eps=1e-06, offset=0.0, casting_mode="llama", in_place=True
):
    """`functional.modulated_rms_norm`: rms_norm(X) * (1 + scale) + shift, of X's dtype."""
    scale, shift = alike(scale, shift)
    return F.modulated_rms_norm(X, scale, shift, W, eps, offset, casting_mode)


def liger_layer_norm(X, W, B, eps):
    """`functional.layer_norm`."""
    return F.layer_norm(X, W, B, eps)


def liger_group_norm(X, affine_scaling_weight, affine_shifting_bias, num_channels, num_groups, eps):
    """`functional.group_norm`; num_channels must be X's."""
    if X.dim() > 1 and X.shape[1] != num_channels:
        raise ValueError(
            f"liger_group_norm: num_channels={num_channels} does not fit X of shape "
            f"{list(X.shape)}; allowed: {X.shape[1]}"
        )
    return F.group_norm(X, num_groups, affine_scaling_weight, affine_shifting_bias, eps)


def liger_poly_norm(X, W, B, eps=1e-06, in_place=True):
    """`functional.poly_norm`."""
    return F.poly_norm(X, W, B, eps)


def liger_dyt(x, alpha, gamma, beta):
    """`functional.dyt`."""
    return F.dyt(x, alpha, gamma, beta)


def liger_relu_squared(x):
    """`functional.relu_squared`."""
    return F.relu_squared(x)


def liger_softmax(x):
    """`functional.softmax`."""
    return F.softmax(x)


def liger_sparsemax(input, dim=-1):
    """`functional.sparsemax`."""
    return F.sparsemax(input, dim)


def liger_swiglu(a, b):
    """silu(a) * b, of a's dtype: `functional.swiglu`."""
    return computed_wide(F.swiglu, a, b)


def liger_geglu(a, b):
    """gelu(a) * b in the tanh form, of a's dtype: `functional.geglu`."""
    return computed_wide(F.geglu, a, b)


def liger_rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    """`functional.rope`: (q, k) rotated, as new tensors.

    position_ids choose rows of cos and sin that are [positions, R]; tables with a batch, [1 or B,
    T, R], are already those of the positions, and position_ids do nothing. Without position_ids
    tables of more than T positions serve with their first. rotary_dim, where given, must be what
    cos and sin have angles for: their length, or twice that for half tables.
    """
    length = cos.shape[-1]
    half_tables = rotary_dim is not None and rotary_dim == 2 * length
    if rotary_dim is not None and rotary_dim != length and not half_tables:
        raise ValueError(
            f"liger_rope: rotary_dim={rotary_dim} does not fit cos, whose last dimension is "
            f"{length}; pass cos and sin of the rotated part, {rotary_dim} or {rotary_dim // 2}"
        )
    if position_ids is None:
        tokens = q.shape[-3 if unsqueeze_dim == 2 else -2]
        if cos.shape[-2] != tokens or cos.dim() == 4:
            cos = rotary_tables.of_tokens(cos, tokens, unsqueeze_dim)
            sin = rotary_tables.of_tokens(sin, tokens, unsqueeze_dim)
    elif cos.dim() != 2:
        position_ids = None
    tables = (cos, sin, unsqueeze_dim, position_ids, False, half_tables)
    return turned(F.rope, q, k, *tables)


def liger_qwen2vl_mrope(q, k, cos, sin, mrope_section, unsqueeze_dim=1):
    """`functional.mrope`: (q, k) rotated, as new tensors; cos and sin are [3, 1 or B, T, D].

    Of two sections the third is what they leave of D / 2.
    """
    if len(mrope_section) == 2:
        mrope_section = (*mrope_section, cos.shape[-1] // 2 - sum(mrope_section))
    return turned(F.mrope, q, k, cos, sin, mrope_section, unsqueeze_dim)


def liger_llama4_text_rope(xq, xk, freqs_cis):
    """`functional.complex_rope` of xq, xk [B, T, H, D] by freqs_cis [1 or B, T or more, D/2].

    Real ones multiply; with a last dimension of D they are parts side by side.
    """
    freqs = rotary_tables.of_complex_factors(
        "liger_llama4_text_rope: freqs_cis", freqs_cis, xq.shape[-1] // 2
    )
    freqs = rotary_tables.of_first_tokens(freqs, xq.shape[1])
    return turned(F.complex_rope, xq, xk, freqs, 2)


def liger_llama4_vision_rope(query, key, freqs_ci):
    """`functional.complex_rope` of query, key [B, T, H, D] by freqs_ci of T * D/2 numbers.

    Whatever dimensions of one they have: each entry of the batch is turned by the same. Real ones
    multiply.
    """
    tokens, pairs = query.shape[1], query.shape[-1] // 2
    if freqs_ci.numel() != tokens * pairs:
        raise ValueError(
            f"liger_llama4_vision_rope: freqs_ci has shape {tuple(freqs_ci.shape)}; allowed: "
            f"{tokens} tokens times {pairs} pairs of a head"
        )
    freqs = rotary_tables.of_complex_factors(
        "liger_llama4_vision_rope: freqs_ci",
        freqs_ci.to(query.device).reshape(tokens, pairs),
        pairs,
    )
    return turned(F.complex_rope, query, key, freqs, 2)


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
    """`functional.cross_entropy`: the loss, or a CrossEntropyOutput with any return flag.

    Loss and z_loss have input's dtype. Labels are of any integer dtype. With reduction="none"
    token_accuracy has one number for each label.
    """
    target = loss_forms.labels(target)

    def loss_of(accuracy, predicted):
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
            accuracy,
            predicted,
        )

    output = loss_forms.with_accuracy_of_each(
        loss_of, target, ignore_index, reduction, return_token_accuracy, return_predicted_tokens
    )
    return loss_forms.in_dtype(output, input.dtype)


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
    """`functional.fused_linear_cross_entropy`: the loss, or a CrossEntropyOutput with any flag.

    The loss is float32, z_loss has input's dtype. Labels are of any integer dtype. With
    reduction="none" token_accuracy has one number for each label.
    """
    target = loss_forms.labels(target)

    def loss_of(accuracy, predicted):
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
            return_token_accuracy=accuracy,
            return_predicted_tokens=predicted,
        )

    output = loss_forms.with_accuracy_of_each(
        loss_of, target, ignore_index, reduction, return_token_accuracy, return_predicted_tokens
    )
    return loss_forms.with_z_loss_in(output, input.dtype)


replaced.watch(globals())


def liger_fused_linear_jsd(
    student_input,
    student_weight,
    teacher_input,
    teacher_weight,
    shift_labels=None,
    jsd_beta=0.5,
    ignore_index=-100,
    temperature=1.0,
    accum_dtype=None,
):
    """`functional.fused_linear_jsd`: a float32 scalar. Labels are of any integer dtype."""
    return F.fused_linear_jsd(
        student_input,
        student_weight,
        teacher_input,
        teacher_weight,
        loss_forms.labels(shift_labels),
        jsd_beta,
        ignore_index,
        temperature,
        accum_dtype,
    )


def liger_fused_linear_kl_div(
    student_input,
    student_weight,
    target,
    shift_labels=None,
    reduction="batchmean",
    ignore_index=-100,
    temperature=1.0,
    eps=1e-10,
    accum_dtype=None,
):
    """`functional.fused_linear_kl_div`: a float32 scalar. Labels are of any integer dtype."""
    return F.fused_linear_kl_div(
        student_input,
        student_weight,
        target,
        loss_forms.labels(shift_labels),
        None,
        reduction,
        temperature,
        eps,
        ignore_index,
        accum_dtype,
    )


def liger_fused_linear_scaled_cross_entropy_tp(
    input,
    weight,
    target,
    tp_group,
    temperature=1.0,
    ignore_index=-100,
    tiles_per_reduce=1,
    return_entropy=False,
):
    """-log p[target] of each token, and with return_entropy its entropy, under a layer whose
    classes are spread over the ranks of tp_group (None: of all):
    `functional.vocab_parallel_log_probs`. float32; `tiles_per_reduce` does nothing."""
    if tp_group is None:
        tp_group = torch.distributed.group.WORLD
    log_probs, entropy = F.vocab_parallel_log_probs(
        input, weight, target, tp_group, temperature=temperature, ignore_index=ignore_index
    )
    return (-log_probs, entropy) if return_entropy else -log_probs


def liger_fused_neighborhood_attention(query, key, value, kernel_size=7, dilation=1, scale=None):
    """`functional.neighborhood_attention`."""
    return F.neighborhood_attention(query, key, value, kernel_size, dilation, scale)


def liger_multi_token_attention(
    scores, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, sparse=False
):
    """`functional.multi_token_attention`. stride, padding and dilation may be pairs of equals."""
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    alike = {name: _of_both(name, value) for name, value in options.items()}
    return F.multi_token_attention(scores, weight, bias, **alike, groups=groups, sparse=sparse)


def _of_both(name, value):
    if isinstance(value, int):
        return value
    first, second = value
    if first != second:
        raise ValueError(
            f"liger_multi_token_attention: {name} is {value}; allowed: a number, or two alike"
        )
    return first


def liger_kl_div(
    input,
    target,
    size_average=True,
    reduce=True,
    reduction="mean",
    log_target=False,
    eps=1e-10,
):
    """`functional.kl_div`; where the dtypes differ it is computed in the wider."""
    input, target = alike(input, target)
    return F.kl_div(input, target, reduction, log_target, eps)


def liger_jsd(input, target, shift_labels=None, beta=0.5, ignore_index=-100):
    """`functional.jsd`: input is the student, target the teacher, both log-probabilities.

    The loss has input's dtype. Where the two dtypes differ it is computed in the wider.
    """
    student, teacher = alike(input, target)
    loss = F.jsd(student, teacher, loss_forms.labels(shift_labels), beta, ignore_index)
    return loss.to(input.dtype)


def liger_tvd(input, target, shift_labels=None, reduction="mean", ignore_index=-100):
    """`functional.tvd`: input is the student, target the teacher, both probabilities.

    Where the two dtypes differ it is computed in the wider.
    """
    input, target = alike(input, target)
    return F.tvd(input, target, loss_forms.labels(shift_labels), reduction, ignore_index)


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
