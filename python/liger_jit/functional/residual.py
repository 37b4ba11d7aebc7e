"""What takes the place of a residual sum."""

from torch import Tensor

from .. import ops


def attn_res(v: Tensor, w_query: Tensor, w_norm: Tensor, eps: float = 1e-6) -> Tensor:
    """Attention over depth: the softmax-weighted sum of what blocks of layers have put out.

        key[n]   = v[n] / sqrt(mean(v[n]^2) + eps) * w_norm
        score[n] = sum over D of w_query * key[n]
        y        = sum over n of softmax(score)[n] * v[n]

    Kimi Team, "Attention Residuals", arXiv:2603.15031.

    Args:
        v: [N, ..., D], the states of N blocks, N of 1 to 1024; float32, bfloat16, float16, or
            float64 on the CPU. It is read once, where its last dimension is contiguous.
        w_query: [D], the learned query, of any of these dtypes.
        w_norm: [D], the scale of the normalised states.
        eps: added to the mean square.

    Returns y, [..., D] of v's dtype.

    Raises:
        ValueError: v has fewer than two dimensions or N is none of these, a weight is not [D],
            dtype not supported, or tensors on different devices.
    """
    if v.dim() == 3:
        return ops.attn_res(v, w_query, w_norm, eps)[0]
    if v.dim() < 2:
        raise ops.refuse("attn_res", "v", tuple(v.shape), ["[N, ..., D]"])
    y = ops.attn_res(v.reshape(v.shape[0], -1, v.shape[-1]), w_query, w_norm, eps)[0]
    return y.reshape(v.shape[1:])
