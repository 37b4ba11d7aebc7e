"""Softmax and sparsemax: rows that become probabilities."""

from torch import Tensor

from .. import ops


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension.

        y = exp(x - max(x)) / sum(exp(x - max(x)))

    Args:
        x: [..., N], rows of any length; float32, bfloat16, float16, or float64 on the CPU. The
            last dimension is contiguous, or else it is copied.

    Returns y, of x's shape and dtype. Maximum, sum and quotient are in float32, rounded once. What
    no number stands for is as in torch: a row with a NaN or a +inf, or of -inf alone, is NaN.

    Raises:
        ValueError: dtype not supported.
    """
    return ops.softmax(x)


def sparsemax(x: Tensor, dim: int = -1) -> Tensor:
    """Sparsemax over a dimension: the point of the simplex nearest to x, with many zeros.

        y = max(x - tau, 0),    with the tau for which y sums to one

    Martins and Astudillo, "From Softmax to Sparsemax", arXiv:1602.02068. Tau is found without a
    sort, and the zeros are exact. The gradient is dy less its mean where y is above zero, else 0.

    Args:
        x: rows of any length; float32, bfloat16, float16, or float64 on the CPU.
        dim: the dimension that sums to one; any but the last is made the last by a copy.

    Returns y, of x's shape and dtype. A row with a NaN or a +inf, or of -inf alone, is NaN.

    Raises:
        ValueError: dtype not supported. IndexError: dim out of range.
    """
    if dim == -1 or dim == x.dim() - 1:
        return ops.sparsemax(x)
    return ops.sparsemax(x.transpose(dim, -1)).transpose(dim, -1)
