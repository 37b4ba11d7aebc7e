"""A residual addition and the layer normalisation of its sum."""

from torch import Tensor

from .. import ops


def fused_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Residual addition and the layer normalisation of its sum, in one pass over memory.

        sum = x + residual            (rounded to x's dtype, as eager addition does)
        y = layer_norm(sum, weight, bias, eps)

    Args:
        x, residual: [..., H], of one shape and dtype.
        weight, bias, eps: as in `layer_norm`.

    Returns (y, sum), both of x's shape and dtype; gradients of both flow to x and residual alike.
    Raises as `layer_norm`, and ValueError if x and residual differ in shape or dtype.
    """
    return ops.fused_add_layer_norm(x, residual, weight, bias, eps)[:2]
