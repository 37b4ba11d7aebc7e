"""Rotary embeddings."""

from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("rms_norm", "casting_mode")


def rope(
    q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Rotary position embedding, half-split form, of queries and keys.

        y[:R/2]  = x[:R/2] * cos[:R/2] - x[R/2:R] * sin[:R/2]
        y[R/2:R] = x[R/2:R] * cos[R/2:] + x[:R/2] * sin[R/2:]
        y[R:]    = x[R:]

    Su et al., "RoFormer", arXiv:2104.09864; the half-split layout is that of GPT-NeoX and Llama.

    Args:
        q: [B, Hq, T, D] for unsqueeze_dim=1, [B, T, Hq, D] for unsqueeze_dim=2; any strides whose
            last dimension is contiguous.
        k: as q, with its own number of heads, or None.
        cos, sin: [T, R], [1 or B, T, R], or the latter with a singleton head dimension; R is even
            and at most D (R < D rotates a part). One that requires a gradient is refused.
        unsqueeze_dim: the dimension of the heads in q and k, 1 or 2.

    Returns:
        (q rotated, k rotated or None), of the inputs' shapes, dtypes and layouts.

    Raises:
        ValueError: unsqueeze_dim is neither, a 4-D cos or sin has more than one head, R is odd or
            above D, or batch, length, dtype or device of cos and sin do not fit.
    """
    if unsqueeze_dim != 1 and unsqueeze_dim != 2:
        raise ops.refuse("rope", "unsqueeze_dim", unsqueeze_dim, (1, 2))
    cos = ops.without_heads("rope", "cos", cos, unsqueeze_dim)
    sin = ops.without_heads("rope", "sin", sin, unsqueeze_dim)
    if unsqueeze_dim == 1:
        q_out, k_out = ops.rope(q, k, cos, sin)
        return q_out, None if k is None else k_out
    q = ops.heads_second("rope", "q", q)
    if k is None:
        return ops.rope(q, None, cos, sin)[0].transpose(1, 2), None
    q_out, k_out = ops.rope(q, ops.heads_second("rope", "k", k), cos, sin)
    return q_out.transpose(1, 2), k_out.transpose(1, 2)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
    unsqueeze_dim: int = 1,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` of each head of queries and keys, then `rope` of both, in one pass over memory.

        q, k = rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)

    It rounds where those two do, so their results are its own.

    Args:
        q, k, cos, sin, unsqueeze_dim: as in `rope`; k is not optional. The head size D is at most
            1024.
        weight_q, weight_k: [D], of one dtype.
        eps, offset, casting_mode: as in `rms_norm`, for both.

    Returns (q, k), of the inputs' shapes, dtypes and layouts.
    Raises ValueError as `rms_norm` and `rope`.
    """
    mode = ops.choice("qk_norm_rope", "casting_mode", casting_mode, _CASTING_MODES)
    if unsqueeze_dim != 1 and unsqueeze_dim != 2:
        raise ops.refuse("qk_norm_rope", "unsqueeze_dim", unsqueeze_dim, (1, 2))
    cos = ops.without_heads("qk_norm_rope", "cos", cos, unsqueeze_dim)
    sin = ops.without_heads("qk_norm_rope", "sin", sin, unsqueeze_dim)
    weights_and_angles = (weight_q, weight_k, cos, sin, eps, offset, mode)
    if unsqueeze_dim == 1:
        return ops.qk_norm_rope(q, k, *weights_and_angles)[:2]
    q = ops.heads_second("qk_norm_rope", "q", q)
    k = ops.heads_second("qk_norm_rope", "k", k)
    q_out, k_out = ops.qk_norm_rope(q, k, *weights_and_angles)[:2]
    return q_out.transpose(1, 2), k_out.transpose(1, 2)
