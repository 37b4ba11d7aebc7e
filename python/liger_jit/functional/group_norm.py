"""Group normalisation."""

from torch import Tensor

from .. import ops


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Normalisation over groups of channels, each with all that comes after its channels.

        y = (x - mean) / sqrt(var + eps) * weight + bias      (biased variance)

    Wu and He, "Group Normalization", arXiv:1803.08494.

    Args:
        x: [N, C, ...]; dtypes as in `rms_norm`. What is not contiguous, channels-last too, is
            copied first, and y is contiguous.
        num_groups: a divisor of C: 1 normalises each entry of the batch, C each channel.
        weight, bias: [C] each, of any of these dtypes, or None for one and zero.
        eps: added to the variance.

    Returns y, of x's shape and dtype. Mean and variance are float32, the variance that of the
    deviations from the mean.

    Raises:
        ValueError: dtype not supported, num_groups does not divide C, weight or bias not [C], eps
            below zero, or tensors on different devices.
    """
    return ops.group_norm(x, weight, bias, num_groups, eps)[0]
