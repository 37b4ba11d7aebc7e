"""Rotary functions by complex factors, as Llama 4 and DeepSeek-V2 have them: f(q, k, freqs).

Neighbours are a complex number each, which is multiplied in float32 with the factor of its place.
Where the heads are is the function's own: it puts a dimension for them into the factors.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ... import functional
from ...meta_calls import MetaCall
from ..guard import is_usable
from ..modes import is_watched
from ..probe import LONG, OUTLYING, Mismatch, assert_same, random
from .memory_order import has_rows

HALVES = (torch.bfloat16, torch.float16)


def is_complex(parameters: tuple[str, ...]) -> bool:
    """Whether a function of these parameters may be one: its third tensor is called so."""
    return len(parameters) == 3 and parameters[2].startswith("freqs")


def formula(q: Tensor, k: Tensor, freqs: Tensor, heads_at: int) -> tuple[Tensor, Tensor]:
    factors = freqs.unsqueeze(heads_at)

    def rotate(x: Tensor) -> Tensor:
        one, other = x.float()[..., 0::2], x.float()[..., 1::2]
        real = one * factors.real - other * factors.imag
        imaginary = one * factors.imag + other * factors.real
        return torch.stack((real, imaginary), dim=-1).flatten(-2).to(x.dtype)

    return rotate(q), rotate(k)


@cache
def rotary_by_factors(original: Callable, heads_at: int) -> Callable:
    """Our function with the original's signature, which is called for what no operator takes."""

    def takes(q: Tensor, k: Tensor, freqs: Tensor) -> bool:
        if is_watched() or any(x.dim() != 4 or not is_usable(x) or not has_rows(x) for x in (q, k)):
            return False
        # Heads are where the factors have none, and may differ in number.
        if any(q.shape[i] != k.shape[i] for i in range(4) if i != heads_at):
            return False
        if q.dtype != k.dtype or q.dtype == torch.float64 or freqs.dtype != torch.complex64:
            return False
        batch, tokens, width = q.shape[0], q.shape[3 - heads_at], q.shape[3]
        if freqs.shape not in ((1, tokens, width // 2), (batch, tokens, width // 2)):
            return False
        if freqs.device != q.device or type(freqs) is not Tensor:
            return False
        if not torch.is_grad_enabled():
            return True
        # Results of one node have a history together, and the operators give factors no gradient.
        return q.requires_grad == k.requires_grad and not freqs.requires_grad

    def apply(q, k, freqs):
        if not takes(q, k, freqs):
            return original(q, k, freqs)
        # Eager arithmetic leaves the results as q and k lie, by rows.
        return functional.complex_rope(q, k, freqs, heads_at)

    return apply


def dimension_of_heads(original: Callable, size: int, other_sizes: tuple[int, ...]) -> int:
    """Where the function's heads are; `Mismatch` unless it is the formula for heads of all sizes
    and dtypes there."""
    freqs = torch.ones(1, 5, 1, dtype=torch.complex64, device="cpu")
    x = torch.zeros(1, 5, 3, 2, device="cpu")
    try:
        original(x, x, freqs)
        heads_at = 2
    except Exception:  # such factors do not go with heads there
        heads_at = 1
    check_formula(original, heads_at, size, other_sizes)
    return heads_at


def check_formula(
    original: Callable, heads_at: int, size: int, other_sizes: tuple[int, ...]
) -> None:
    def candidate(q: Tensor, k: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
        return formula(q, k, freqs, heads_at)

    for dtype in (torch.float32, *HALVES):
        for sequences in (1, 2):
            check(original, candidate, heads_at, size, "cpu", dtype, sequences=sequences)
    check(original, candidate, heads_at, size, tokens=1)
    check(original, candidate, heads_at, size, tokens=37, scale=OUTLYING)
    check(original, candidate, heads_at, size, tokens=LONG)
    for other in other_sizes:
        check(original, candidate, heads_at, other)


def check(
    original: Callable,
    candidate: Callable,
    heads_at: int,
    size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tokens: int = 5,
    scale: float = 1.0,
    sequences: int = 2,
) -> None:
    """`Mismatch` unless both rotate alike. sequences: of the factors, for two of heads."""
    generator = torch.Generator().manual_seed(17)
    # No angles: the operator reads both parts of each factor.
    parts = random((sequences, tokens, size // 2, 2), generator).to(device)
    freqs = torch.view_as_complex(parts)
    inputs = [
        (random((2, tokens, heads, size), generator) * scale).to(device, dtype) for heads in (3, 1)
    ]
    inputs = [x.transpose(1, 3 - heads_at) for x in inputs]
    try:
        original(*inputs, freqs)
    except Exception as error:
        raise Mismatch(f"it does not take heads and complex factors: {error}") from error
    own, mine = (lambda *x: original(*x, freqs)), (lambda *x: candidate(*x, freqs))
    assert_same(own, mine, inputs, (), f"rotating {size} in {dtype}")


def meta_call(sizes: tuple[int, int, int], dtype: torch.dtype, heads_at: int) -> MetaCall | None:
    """sizes: query heads, key heads, and that of a head. None for float64, which goes to the
    function itself: factors have float32."""
    if dtype == torch.float64:
        return None
    *counts, size = sizes

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta").requires_grad_()

        heads = (empty(batch, tokens, count, size).transpose(1, 3 - heads_at) for count in counts)
        freqs = torch.empty(1, tokens, size // 2, dtype=torch.complex64, device="meta")
        q, k = functional.complex_rope(*heads, freqs, heads_at)
        (q.sum() + k.sum()).backward()

    return MetaCall("rope", ("complex", *sizes, dtype, heads_at), run)
