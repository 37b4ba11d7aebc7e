"""RMS normalisation with a scale and a shift of each sequence: diffusion transformers."""

import math

from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("modulated_rms_norm", "casting_mode")


def modulated_rms_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
) -> Tensor:
    """Root mean square normalisation, modulated: adaptive normalisation in one pass over memory.

        y = rms_norm(x, weight, eps, offset, casting_mode) * (1 + scale) + shift

    Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv:2212.09748. The norm is
    not rounded before it is modulated.

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        scale: in a dtype of its own, any of
            [H] or all sizes 1 but the last: for all rows;
            x's sizes with 1 in place of the last of the leading ones, [B, 1, H]: per sequence;
            x's sizes, or [rows, H]: per row;
            [M, H]: each row for rows / M consecutive ones. M = B is per sequence.
        shift: of scale's shape and dtype, or None.
        weight, eps, offset: as in `rms_norm`.
        casting_mode: "llama": the normalised value is rounded to x's dtype before the weight.
            "gemma" and "none": one rounding, at the end.

    Returns y, of x's shape and dtype. The gradients of scale, shift and weight are sums in an order
    fixed by the sizes: the same bits in each run.

    Raises:
        ValueError: casting_mode is not one of the three, dtype not supported, float64 mixed with
            others, scale of another shape, shift unlike scale, weight not [H], or tensors on
            different devices.
    """
    mode = ops.choice("modulated_rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    sizes = x.shape
    if x.dim() and scale.dim() and not _is_broadcast(scale.shape, sizes):
        place, seen = _placed(scale.shape, sizes)
        if shift is not None and shift.shape == scale.shape:
            shift = shift.view(place)
        scale = scale.view(place)
        x = x if seen == sizes else x.reshape(seen)
    y = ops.modulated_rms_norm(x, scale, shift, weight, eps, offset, mode)[0]
    return y if x.shape == sizes else y.view(sizes)


def _is_broadcast(sizes, whole):
    """Whether they are those of x, or 1 from some dimension on up to the last."""
    if len(sizes) != len(whole):
        return False
    equal = 0
    while equal < len(whole) - 1 and sizes[equal] == whole[equal]:
        equal += 1
    return sizes[-1] == whole[-1] and all(size == 1 for size in sizes[equal:-1])


def _placed(scale, x):
    """The sizes that scale is seen with, and those of x then; both as they are if none fit."""
    size, leading = x[-1], x[:-1]
    count = scale[0] if len(scale) == 2 else 1
    if scale[-1] != size or len(scale) > 2:
        return scale, x
    if count == 1:
        return (*(1 for _ in leading), size), x
    if leading and count == leading[0]:
        return (count, *(1 for _ in leading[1:]), size), x
    rows = math.prod(leading)
    if count == rows:
        return x, x
    if count > 0 and rows % count == 0:
        return (count, 1, size), (count, rows // count, size)
    return scale, x
