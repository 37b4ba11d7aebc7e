"""Attention to a neighbourhood."""

import math

from torch import Tensor

from .. import ops


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int = 7,
    dilation: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Attention of each token to a window of tokens around it, in one dimension.

        out[t] = sum of softmax(scale * q[t] . k[w]) * v[w]
        w = t + i * dilation for i from -(kernel_size // 2) to kernel_size // 2

    At the ends of a sequence the window is what is left of it. Hassani et al., "Generalized
    Neighborhood Attention", arXiv:2504.16922. Time and memory grow with the number of tokens, not
    with its square.

    Args:
        q, k, v: [B, H, T, D], of one shape and dtype; any strides whose last dimension is
            contiguous, D at most 1024. Under autocast they are cast, as for a matrix product.
        kernel_size: tokens of a window, odd.
        dilation: distance of neighbours in a window.
        scale: of the scores; None: 1 / sqrt(D).

    Returns [B, H, T, D], of q's dtype and layout.

    Raises:
        ValueError: kernel_size is even or below 1, dilation is below 1, D is above 1024, or shapes,
            dtypes or devices differ.
    """
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    return ops.neighborhood_attention(q, k, v, kernel_size, dilation, scale)[0]


def multi_token_attention(
    scores: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    sparse: bool = False,
) -> Tensor:
    """Attention scores of neighbouring tokens and heads, mixed by a convolution.

        p = softmax of each row i of scores over its columns up to i, and 0 beyond
        out = conv2d(p, weight, bias), and 0 beyond column i of row i

    Golovneva et al., "Multi-Token Attention", arXiv:2504.00927. The convolution and its gradients
    are torch's; on a GPU they repeat bit for bit where `torch.backends.cudnn.deterministic` is set.

    Args:
        scores: [B, C, N, N], of queries and keys in one order.
        weight: [C out, C / groups, K, K], of scores' dtype.
        bias: [C out] or None.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`, the first three alike
            for rows and columns.
        sparse: sparsemax in place of softmax.

    Under autocast, tensors are cast as for a matrix product.

    Returns [B, C out, M, M] of scores' dtype, M being what the convolution makes of N.

    Raises:
        ValueError: scores or weight is not square, channels do not fit groups, a window is longer
            than the padded scores, or dtypes or devices differ.
    """
    return ops.multi_token_attention(
        scores, weight, bias, stride, padding, dilation, groups, sparse
    )[0]
