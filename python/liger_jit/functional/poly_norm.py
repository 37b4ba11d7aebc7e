"""Normalised powers, added up."""

from torch import Tensor

from .. import ops


def poly_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """The weighted sum of the first three powers, each normalised over the last dimension.

        y = weight[0] * norm(x^3) + weight[1] * norm(x^2) + weight[2] * norm(x) + bias
        norm(u) = u / sqrt(mean(u^2) + eps)

    Zhuo et al., "Polynomial Composition Activations", arXiv:2411.03884.

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        weight: [3] of any of these dtypes.
        bias: one number, [] or [1].
        eps: added to each mean square.

    Returns y, of x's shape and dtype; powers and means are float32.

    Raises:
        ValueError: dtype not supported, weight not [3], bias not one number, eps below zero, or
            tensors on different devices.
    """
    return ops.poly_norm(x, weight, bias, eps)[0]
