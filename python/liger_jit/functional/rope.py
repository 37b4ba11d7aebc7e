"""Rotary embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("rms_norm", "casting_mode")


def rope(
    q: Tensor,
    k: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    unsqueeze_dim: int = 1,
    position_ids: Tensor | None = None,
    interleaved: bool = False,
    half_tables: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Rotary position embedding of queries and keys.

        y[:R/2]  = x[:R/2] * cos[:R/2] - x[R/2:R] * sin[:R/2]
        y[R/2:R] = x[R/2:R] * cos[R/2:] + x[:R/2] * sin[R/2:]
        y[R:]    = x[R:]

    or, interleaved, of neighbours:

        y[0:R:2] = x[0:R:2] * cos[0::2] - x[1:R:2] * sin[0::2]
        y[1:R:2] = x[1:R:2] * cos[1::2] + x[0:R:2] * sin[1::2]
        y[R:]    = x[R:]

    Su et al., "RoFormer", arXiv:2104.09864, has neighbours, as GPT-J, GLM and Cohere; the
    half-split layout is that of GPT-NeoX and Llama.

    Args:
        q: [B, Hq, T, D] for unsqueeze_dim=1, [B, T, Hq, D] for unsqueeze_dim=2; any strides whose
            last dimension is contiguous.
        k: as q, with its own number of heads, or None.
        cos, sin: [T, R], [1 or B, T, R], or the latter with a singleton head dimension; R is even
            and at most D (R < D rotates a part). One that requires a gradient is refused.
        unsqueeze_dim: the dimension of the heads in q and k, 1 or 2. 0 says the same as 1 of tables
            [T, R] or [1, T, R], which then have nothing of the batch.
        position_ids: [T] or [1 or B, T], int64: the rows of cos and sin that the tokens have; cos
            and sin are then [positions, R].
        interleaved: whether neighbours turn with one another.
        half_tables: whether cos and sin have one angle for each pair, R / 2, as gpt-oss and GPT-J
            make them.

    Returns:
        (q rotated, k rotated or None), of the inputs' shapes, dtypes and layouts.

    Raises:
        ValueError: unsqueeze_dim is none of these, a 4-D cos or sin has more than one head, R is
            odd or above D, or batch, length, dtype or device of cos and sin do not fit.
        IndexError: a position has no row. On a GPU that is told by a later call, or by
            `liger_jit.check()`.
    """
    if position_ids is not None:
        if position_ids.dim() == 1:
            position_ids = position_ids.unsqueeze(0)
        tables = (cos, sin, position_ids, interleaved, half_tables)
        return _turned("rope_by_position", q, k, unsqueeze_dim, tables)
    if unsqueeze_dim not in (0, 1, 2):
        raise ops.refuse("rope", "unsqueeze_dim", unsqueeze_dim, (0, 1, 2))
    cos = ops.without_heads("rope", "cos", cos, unsqueeze_dim)
    sin = ops.without_heads("rope", "sin", sin, unsqueeze_dim)
    if unsqueeze_dim == 0 and cos.dim() == 3 and cos.shape[0] == 1:
        unsqueeze_dim = 1
    if not interleaved and not half_tables:
        return _turned("rope", q, k, unsqueeze_dim, (cos, sin))
    return _turned("rope", q, k, unsqueeze_dim, (cos, sin, interleaved, half_tables))


def mrope(
    q: Tensor,
    k: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    sections: Sequence[int] = (16, 24, 24),
    unsqueeze_dim: int = 1,
    interleaved_sections: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`rope`, half split, of tokens that have three positions: in time, height and width.

        a(i)           = the axis of pair i, 0 to R / 2 - 1
        y[i]           = x[i] * cos[a(i), i] - x[i + R/2] * sin[a(i), i]
        y[i + R/2]     = x[i + R/2] * cos[a(i), i + R/2] + x[i] * sin[a(i), i + R/2]

    The first sections[0] pairs are those of time, the next sections[1] of height, the last of
    width: Qwen2-VL, arXiv:2409.12191. Interleaved, height has the pairs 1, 4, 7 ..., width 2, 5, 8
    ..., and time all others: Qwen3-VL.

    Args:
        q, k, unsqueeze_dim: as in `rope`, unsqueeze_dim 1 or 2.
        cos, sin: [3, 1 or B, T, R], of the three axes.
        sections: numbers of pairs, whose sum is R / 2. The default is Qwen2-VL's, for R = 128.
        interleaved_sections: whether the sections are interleaved.

    Returns (q rotated, k rotated or None), of the inputs' shapes, dtypes and layouts.
    Raises ValueError as `rope`, and if the sections are not three or have another sum.
    """
    if len(sections) != 3:
        raise ops.refuse("mrope", "sections", sections, ("three numbers",))
    tables = (cos, sin, *sections, interleaved_sections)
    return _turned("mrope", q, k, unsqueeze_dim, tables)


def complex_rope(
    q: Tensor, k: Tensor | None, freqs: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Rotary position embedding by complex factors, as Llama 4 has it.

        y[2i] + j y[2i + 1] = (x[2i] + j x[2i + 1]) * freqs[i],  i < R / 2
        y[R:]               = x[R:]

    Args:
        q, k, unsqueeze_dim: as in `rope`, unsqueeze_dim 1 or 2.
        freqs: complex [T, R/2] or [1 or B, T, R/2]; or its parts side by side, real [.., T, R].

    Returns (q rotated, k rotated or None), of the inputs' shapes, dtypes and layouts.
    Raises ValueError as `rope`.
    """
    if isinstance(freqs, Tensor) and freqs.is_complex():
        freqs = torch.view_as_real(freqs.resolve_conj()).flatten(-2)
    freqs = ops.without_heads("complex_rope", "freqs", freqs, unsqueeze_dim)
    return _turned("complex_rope", q, k, unsqueeze_dim, (freqs,))


def _turned(op: str, q: Tensor, k: Tensor | None, unsqueeze_dim: int, tables: tuple):
    """The op on heads that are the first or the second dimension after the batch."""
    turn = getattr(ops, op)
    if unsqueeze_dim == 1:
        q_out, k_out = turn(q, k, *tables)
        return q_out, None if k is None else k_out
    if unsqueeze_dim != 2:
        raise ops.refuse(op, "unsqueeze_dim", unsqueeze_dim, (1, 2))
    q = ops.heads_second(op, "q", q)
    if k is None:
        return turn(q, None, *tables)[0].transpose(1, 2), None
    q_out, k_out = turn(q, ops.heads_second(op, "k", k), *tables)
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
    how = eps, offset, casting_mode, unsqueeze_dim
    return _normed_and_turned("qk_norm_rope", q, k, weight_q, weight_k, cos, sin, *how)


def full_qk_norm_rope(
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
    """`qk_norm_rope` whose norms are of all heads of a token together, as OLMo 2 has them: of its
    queries, and of its keys.

    Args:
        q, k, cos, sin, unsqueeze_dim: as in `rope`; k is not optional. The heads of a token
            have together up to 16384 elements.
        weight_q, weight_k: [Hq * D] and [Hk * D], of one dtype.
        eps, offset, casting_mode: as in `rms_norm`, for both.

    Returns (q, k), of the inputs' shapes, dtypes and layouts.
    Raises ValueError as `rms_norm` and `rope`.
    """
    how = eps, offset, casting_mode, unsqueeze_dim
    return _normed_and_turned("full_qk_norm_rope", q, k, weight_q, weight_k, cos, sin, *how)


def _normed_and_turned(
    op: str,
    q: Tensor,
    k: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    offset: float,
    casting_mode: str,
    unsqueeze_dim: int,
) -> tuple[Tensor, Tensor]:
    mode = ops.choice(op, "casting_mode", casting_mode, _CASTING_MODES)
    if unsqueeze_dim != 1 and unsqueeze_dim != 2:
        raise ops.refuse(op, "unsqueeze_dim", unsqueeze_dim, (1, 2))
    cos = ops.without_heads(op, "cos", cos, unsqueeze_dim)
    sin = ops.without_heads(op, "sin", sin, unsqueeze_dim)
    weights_and_angles = (weight_q, weight_k, cos, sin, eps, offset, mode)
    norm_and_turn = getattr(ops, op)
    if unsqueeze_dim == 1:
        return norm_and_turn(q, k, *weights_and_angles)[:2]
    q, k = ops.heads_second(op, "q", q), ops.heads_second(op, "k", k)
    q_out, k_out = norm_and_turn(q, k, *weights_and_angles)[:2]
    return q_out.transpose(1, 2), k_out.transpose(1, 2)
