"""Liger Kernel's functions under their names and signatures, on liger_jit's operators.

Arguments that steer an implementation which does not exist here are accepted and do nothing:
`in_place` (inputs are never changed), `chunk_mem_const` (chunks are chosen from the sizes),
`position_ids` (cos and sin are already those of the positions), `size_average` and `reduce`
(superseded by `reduction` in torch as well). What each function computes stands in
`liger_jit.functional`.
"""

from .. import functional as F
from ..functional import CrossEntropyOutput

__all__ = [
    "CrossEntropyOutput",
    "liger_cross_entropy",
    "liger_fused_add_rms_norm",
    "liger_fused_linear_cross_entropy",
    "liger_geglu",
    "liger_jsd",
    "liger_kl_div",
    "liger_layer_norm",
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
    """`functional.fused_add_rms_norm`: (normalised sum, sum X + R)."""
    return F.fused_add_rms_norm(X, R, W, eps, offset, casting_mode)


def liger_layer_norm(X, W, B, eps):
    """`functional.layer_norm`."""
    return F.layer_norm(X, W, B, eps)


def liger_softmax(x):
    """`functional.softmax`."""
    return F.softmax(x)


def liger_sparsemax(input, dim=-1):
    """`functional.sparsemax`."""
    return F.sparsemax(input, dim)


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


def liger_kl_div(
    input,
    target,
    size_average=True,
    reduce=True,
    reduction="mean",
    log_target=False,
    eps=1e-10,
):
    """`functional.kl_div`."""
    return F.kl_div(input, target, reduction, log_target, eps)


def liger_jsd(input, target, shift_labels=None, beta=0.5, ignore_index=-100):
    """`functional.jsd`: input is the student, target the teacher, both log-probabilities."""
    return F.jsd(input, target, shift_labels, beta, ignore_index)


def liger_tvd(input, target, shift_labels=None, reduction="mean", ignore_index=-100):
    """`functional.tvd`: input is the student, target the teacher, both probabilities."""
    return F.tvd(input, target, shift_labels, reduction, ignore_index)
