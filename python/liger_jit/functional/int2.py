"""Products with weights of two bits."""

import torch
from torch import Tensor

from .. import ops


def int2_matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ unpack_int2(b), exactly: sums are int32.

    Args:
        a: [M, K], int8.
        b: [K / 4, N], uint8, as `pack_int2` makes it of weights [K, N].

    Returns:
        [M, N], int32. It has no gradient.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    return ops.int2_matmul(a, b)


def pack_int2(weights: Tensor) -> Tensor:
    """Weights of -1, 0, 1 or 2, four to a byte along the first dimension.

    With Q = ceil(K / 4), byte j has weights[j + i * Q] + 1 in its bits 2 i and 2 i + 1. Where K is
    no multiple of four, zeros follow.

    Args:
        weights: [K, ...], of any integer or floating-point dtype. Never changed.

    Returns:
        [Q, ...], uint8.

    Raises:
        ValueError: a weight on the CPU that is none of the four, naming place and value. On a GPU,
            which nobody waits for, they are taken modulo four.
    """
    if weights.dim() == 0:
        raise ValueError(
            "liger_jit::pack_int2: argument 'weights' has no dimensions; allowed: one or more"
        )
    if weights.device.type == "cpu":
        _require_two_bits(weights)
    rows = weights.shape[0]
    quarter = (rows + 3) // 4
    codes = (weights.to(torch.int64) + 1).bitwise_and(3).to(torch.uint8)
    missing = codes.new_ones((4 * quarter - rows, *codes.shape[1:]))
    parts = torch.cat((codes, missing)).unflatten(0, (4, quarter))
    return parts[0] | parts[1] << 2 | parts[2] << 4 | parts[3] << 6


def unpack_int2(packed: Tensor) -> Tensor:
    """The weights of `pack_int2`: [4 Q, ...], int32, of [Q, ...], uint8."""
    if packed.dim() == 0 or packed.dtype != torch.uint8:
        raise ValueError(
            f"liger_jit::unpack_int2: argument 'packed' has shape {list(packed.shape)} and dtype "
            f"{packed.dtype}; allowed: one dimension or more, torch.uint8"
        )
    return torch.cat([(packed >> 2 * i & 3).to(torch.int32) - 1 for i in range(4)])


def _require_two_bits(weights: Tensor) -> None:
    wrong = ((weights < -1) | (weights > 2) | (weights != weights.to(torch.int64))).flatten()
    if wrong.any():
        place = int(wrong.int().argmax())
        raise ValueError(
            f"liger_jit::pack_int2: element {place} of argument 'weights' is "
            f"{weights.flatten()[place].item()}; allowed: -1, 0, 1 and 2"
        )
