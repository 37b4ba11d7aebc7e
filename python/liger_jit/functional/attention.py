"""Attention to a neighbourhood."""

import math

from torch import Tensor

from .. import ops


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int = 7,
    dilation: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Attention of each token to a window of tokens around it, in one dimension.

        out[t] = sum of softmax(scale * query[t] . key[w]) * value[w]
        w = t + i * dilation for i from -(kernel_size // 2) to kernel_size // 2

    At the ends of a sequence the window is what is left of it. Hassani et al., "Generalized
    Neighborhood Attention", arXiv:2504.16922. Time and memory grow with the number of tokens, not
    with its square.

    Args:
        query, key, value: [B, H, T, D], of one shape and dtype; any strides whose last dimension is
            contiguous. Under autocast they are cast, as for a matrix product.
        kernel_size: tokens of a window, odd.
        dilation: distance of neighbours in a window.
        scale: of the scores; None: 1 / sqrt(D).

    Returns [B, H, T, D], of query's dtype and layout.

    Raises:
        ValueError: kernel_size is even or below 1, dilation is below 1, or shapes, dtypes or
            devices differ.
    """
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    return ops.neighborhood_attention(query, key, value, kernel_size, dilation, scale)[0]
