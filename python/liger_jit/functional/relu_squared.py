"""The squared ReLU."""

from torch import Tensor

from .. import ops


def relu_squared(x: Tensor) -> Tensor:
    """y = max(x, 0)^2, of which the gradient is 2 * max(x, 0) * dy.

    So et al., "Primer: Searching for Efficient Transformers for Language Modeling",
    arXiv:2109.08668. The MLPs of Nemotron have it.

    Args:
        x: [..., H]; dtypes as in `rms_norm`. A view with a row stride is read in place.

    Returns y, of x's shape and dtype, rounded once. Raises ValueError if the dtype is not
    supported.
    """
    return ops.relu_squared(x)
