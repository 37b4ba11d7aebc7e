"""Rotary functions of vision towers: heads [T, H, D] of one packed sequence and tables [T, R].

Most take heads [B, T, H, D] of several sequences under these tables as well.

They compute in float32 whatever the tensors and the tables are, and give the dtype of the heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ... import functional
from ..guard import is_usable
from ..modes import is_watched
from ..probe import HALVES, LONG, OUTLYING, TINY, Mismatch, assert_same, random
from .memory_order import has_rows

PARAMETERS = ("q", "k", "cos", "sin")


def formula(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def rotate(x: Tensor) -> Tensor:
        wide, tables = x.float(), (cos.unsqueeze(-2).float(), sin.unsqueeze(-2).float())
        first, second = wide.chunk(2, dim=-1)
        return (wide * tables[0] + torch.cat((-second, first), -1) * tables[1]).to(x.dtype)

    return rotate(q), rotate(k)


def takes(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, dims: int = 3) -> bool:
    if is_watched() or any(x.dim() != dims or not is_usable(x) or not has_rows(x) for x in (q, k)):
        return False
    # Heads may differ in number.
    if any(q.shape[i] != k.shape[i] for i in range(dims) if i != dims - 2):
        return False
    if q.dtype != k.dtype or q.dtype == torch.float64:
        return False
    if cos.dim() != 2 or cos.shape != sin.shape or cos.shape != q.shape[dims - 3 :: 2]:
        return False
    if cos.dtype != sin.dtype or cos.dtype == torch.float64:
        return False
    if not (is_usable(cos) and is_usable(sin)):
        return False
    if not torch.is_grad_enabled():
        return True
    # Results of one node have a history together, and the operators give tables no gradient.
    return q.requires_grad == k.requires_grad and not (cos.requires_grad or sin.requires_grad)


def rotate_rows(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor] | None:
    """Ours with the signature of such functions; None for what no operator takes."""
    if not takes(q, k, cos, sin):
        return None
    q, k = turned(q.unsqueeze(0), k.unsqueeze(0), cos, sin)
    return q.squeeze(0), k.squeeze(0)


def rotate_batches(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor] | None:
    """Ours of those that take several sequences as well."""
    return turned(q, k, cos, sin) if takes(q, k, cos, sin, 4) else rotate_rows(q, k, cos, sin)


def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return functional.rope(q, k, cos.unsqueeze(0), sin.unsqueeze(0), unsqueeze_dim=2)


def takes_batches(original: Callable, size: int) -> bool:
    """Whether a function of that formula is so for heads of several sequences too."""
    try:
        for dtype in (torch.float32, *HALVES):
            for of_tables in {dtype, torch.float32}:
                check(original, formula, size, "cpu", dtype, of_tables, sequences=(2,))
    except Mismatch:
        return False
    return True


def check_formula(original: Callable, size: int, other_sizes: tuple[int, ...]) -> None:
    """`Mismatch` unless the function is that formula for heads of all sizes and dtypes."""
    for dtype in (torch.float32, *HALVES):
        for of_tables in {dtype, torch.float32}:
            check(original, formula, size, "cpu", dtype, of_tables)
    check(original, formula, size, tokens=1)
    check(original, formula, size, tokens=37, scale=OUTLYING)
    check(original, formula, size, scale=TINY)
    check(original, formula, size, tokens=LONG)
    for other in other_sizes:
        check(original, formula, other)


def check(
    original: Callable,
    candidate: Callable,
    size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    of_tables: torch.dtype = torch.float32,
    tokens: int = 5,
    scale: float = 1.0,
    sequences: tuple[int, ...] = (),
) -> None:
    """`Mismatch` unless both rotate alike."""
    generator = torch.Generator().manual_seed(17)
    # Of no angles, and with halves of their own: the operators read each entry of both.
    tables = [random((tokens, size), generator, of_tables).to(device) for _ in range(2)]
    inputs = [
        (random((*sequences, tokens, heads, size), generator) * scale).to(device, dtype)
        for heads in (3, 2)
    ]
    try:
        original(*inputs, *tables)
    except Exception as error:
        raise Mismatch(f"it does not take heads and tables of one sequence: {error}") from error
    own, mine = (lambda *x: original(*x, *tables)), (lambda *x: candidate(*x, *tables))
    assert_same(own, mine, inputs, (), f"rotating {size} in {dtype}")
