"""Norms."""

from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("rms_norm", "casting_mode")
# Options that are left out as one.
_NORM_DEFAULTS = ops.defaults("rms_norm", "offset", "casting_mode", "promote")


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
    promote: bool = False,
) -> Tensor:
    """Root mean square normalisation over the last dimension.

        y = x / sqrt(mean(x^2) + eps) * (offset + weight)

    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Args:
        x: [..., H]; float32, bfloat16, float16, or float64 on the CPU. The last dimension is
            contiguous, or else it is copied.
        weight: [H] of any of these dtypes, or None for a scale of one.
        eps: added to the mean square.
        offset: added to the weight: 1.0 for the Gemma families, whose weights start at zero.
        casting_mode: where the original module rounds. "llama": the normalised value is rounded to
            x's dtype before it is scaled. "gemma" and "none": one rounding, after the scale.
        promote: give y the promoted dtype of x and weight, as eager modules do, not x's dtype.

    Returns y, of x's shape.

    Raises:
        ValueError: casting_mode is not one of the three, dtype not supported, weight not [H], or
            tensors on different devices.
    """
    mode = ops.choice("rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    options = (offset, mode, promote)
    if options == _NORM_DEFAULTS:
        return ops.rms_norm(x, weight, eps)[0]
    return ops.rms_norm(x, weight, eps, *options)[0]


def fused_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
) -> tuple[Tensor, Tensor]:
    """Residual addition and the normalisation of its sum, in one pass over memory.

        sum = x + residual            (rounded to x's dtype, as eager addition does)
        y = rms_norm(sum, weight, eps, offset, casting_mode)

    Args:
        x, residual: [..., H], of one shape and dtype.
        weight, eps, offset, casting_mode: as in `rms_norm`.

    Returns (y, sum), both of x's shape and dtype; gradients of both flow to x and residual alike.
    Raises as `rms_norm`, and ValueError if x and residual differ in shape or dtype.
    """
    mode = ops.choice("fused_add_rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    options = (offset, mode, False)
    if options == _NORM_DEFAULTS:
        return ops.fused_add_rms_norm(x, residual, weight, eps)[:2]
    return ops.fused_add_rms_norm(x, residual, weight, eps, *options)[:2]


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Layer normalisation over the last dimension.

        y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias      (biased variance)

    A row whose squared deviations overflow the arithmetic (float32: deviations of some 1e18 and
    more) gives NaN or the bias alone; which of both may be another than torch's.

    Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450.

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        weight, bias: [H] each, or None for one and zero.
        eps: added to the variance.

    Returns y, of x's shape and dtype. Raises ValueError as `rms_norm`.
    """
    return ops.layer_norm(x, weight, bias, eps)[0]
