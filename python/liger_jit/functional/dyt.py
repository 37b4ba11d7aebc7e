"""Dynamic tanh, which takes the place of a norm."""

from torch import Tensor

from .. import ops


def dyt(x: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
    """y = gamma * tanh(alpha * x) + beta.

    Zhu et al., "Transformers without Normalization", arXiv:2503.10622.

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        alpha: one number, [] or [1], of any of these dtypes.
        gamma, beta: [H] each; beta may be None.

    Returns y, of x's shape and dtype. The gradients of alpha, gamma and beta are added in an order
    of their own, the same each time.

    Raises:
        ValueError: dtype not supported, alpha not one number, gamma or beta not [H], or tensors on
            different devices.
    """
    return ops.dyt(x, alpha, gamma, beta)
