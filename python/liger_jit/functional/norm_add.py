"""A norm after a block and the residual addition that follows it: post-norm decoder layers."""

from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("rms_norm_add", "casting_mode")
# Options that are left out as one.
_DEFAULTS = ops.defaults("rms_norm_add", "offset", "casting_mode", "promote")


def rms_norm_add(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
    promote: bool = False,
) -> Tensor:
    """RMS normalisation of a block's output and its addition to the residual, in one pass.

        y = residual + rms_norm(x, weight, eps, offset, casting_mode, promote)

    The norm is rounded to its own dtype before the sum, so y has the bits of the two steps. OLMo 2
    and 3, Gemma 2 and 3, GLM-4 and EXAONE 4 have it after attention and after the MLP.

    Args:
        x, residual: [..., H], of one shape and dtype.
        weight, eps, offset, casting_mode, promote: as in `rms_norm`.

    Returns y, of that shape and dtype; of the promoted dtype of x and weight with promote. The
    gradient that arrives at y is handed to residual as it is: no copy of it is made.
    Raises as `rms_norm`, and ValueError if x and residual differ in shape or dtype.
    """
    mode = ops.choice("rms_norm_add", "casting_mode", casting_mode, _CASTING_MODES)
    options = (offset, mode, promote)
    if options == _DEFAULTS:
        return ops.rms_norm_add(x, residual, weight, eps)[0]
    return ops.rms_norm_add(x, residual, weight, eps, *options)[0]


def layer_norm_add(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Layer normalisation of a block's output and its addition to the residual, in one pass.

        y = residual + layer_norm(x, weight, bias, eps)

    Rounded, differentiated and refused as `rms_norm_add`.

    Args:
        x, residual: [..., H], of one shape and dtype.
        weight, bias, eps: as in `layer_norm`.

    Returns y, of that shape and dtype.
    """
    return ops.layer_norm_add(x, residual, weight, bias, eps)[0]
