"""Rotary functions by complex factors, as Llama 4 and DeepSeek-V2 have them: f(q, k, freqs).

Neighbours are a complex number each, which is multiplied in float32 with the factor of its place.
Where the heads are is the function's own: it puts a dimension for them into the factors, or brings
factors of whatever dimensions into the shape that it wants, for all sequences alike.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ... import functional
from ...meta_calls import MetaCall
from ..guard import is_usable
from ..modes import is_watched
from ..probe import HALVES, LONG, OUTLYING, TINY, Mismatch, assert_same, random
from .memory_order import has_rows, without_base


@dataclass(frozen=True)
class Factors:
    """How a function takes them. heads_at: the dimension of its heads. is_shared: it has those of
    one sequence for all, and only their last dimension is sure."""

    heads_at: int
    is_shared: bool = False

    def take(self, freqs: Tensor, batch: int, tokens: int, half: int) -> bool:
        if not self.is_shared:
            return freqs.shape in ((1, tokens, half), (batch, tokens, half))
        sizes = freqs.shape
        return sizes[-1:] == (half,) and freqs.numel() == tokens * half and freqs.is_contiguous()

    def of_tokens(self, freqs: Tensor) -> Tensor:
        """As [1 or batch, tokens, half]."""
        return freqs.reshape(1, -1, freqs.shape[-1]) if self.is_shared else freqs


def is_complex(parameters: tuple[str, ...]) -> bool:
    """Whether a function of these parameters may be one: its third tensor is called so."""
    return len(parameters) == 3 and parameters[2].startswith("freqs")


def formula(q: Tensor, k: Tensor, freqs: Tensor, taken: Factors) -> tuple[Tensor, Tensor]:
    factors = taken.of_tokens(freqs).unsqueeze(taken.heads_at)

    def rotate(x: Tensor) -> Tensor:
        one, other = x.float()[..., 0::2], x.float()[..., 1::2]
        real = one * factors.real - other * factors.imag
        imaginary = one * factors.imag + other * factors.real
        return torch.stack((real, imaginary), dim=-1).flatten(-2).to(x.dtype)

    return rotate(q), rotate(k)


@cache
def rotary_by_factors(original: Callable, taken: Factors) -> Callable:
    """Ours with the original's signature; None for what no operator takes."""
    heads_at, name = taken.heads_at, list(inspect.signature(original).parameters)[2]

    def takes(q: Tensor, k: Tensor, freqs: Tensor) -> bool:
        if is_watched() or any(x.dim() != 4 or not is_usable(x) or not has_rows(x) for x in (q, k)):
            return False
        # Heads are where the factors have none, and may differ in number.
        if any(q.shape[i] != k.shape[i] for i in range(4) if i != heads_at):
            return False
        if q.dtype != k.dtype or q.dtype == torch.float64 or freqs.dtype != torch.complex64:
            return False
        batch, tokens, width = q.shape[0], q.shape[3 - heads_at], q.shape[3]
        if not taken.take(freqs, batch, tokens, width // 2):
            return False
        if freqs.device != q.device or type(freqs) is not Tensor:
            return False
        if not torch.is_grad_enabled():
            return True
        # Results of one node have a history together, and the operators give factors no gradient.
        return q.requires_grad == k.requires_grad and not freqs.requires_grad

    def apply(*heads, **named):
        # By another name, or without one of the three, it is the original that says what is wrong.
        given = (*heads, named[name]) if named.keys() == {name} else heads
        if len(given) != 3 or (named and given is heads) or not takes(*given):
            return None
        q, k, freqs = given
        # Eager arithmetic leaves the results as q and k lie, by rows: views of complex numbers, or
        # rounded into new memory.
        both = functional.complex_rope(q, k, taken.of_tokens(freqs), heads_at)
        is_rounded = q.dtype != torch.float32
        return tuple(without_base(x) if is_rounded else x.view_as(x) for x in both)

    return apply


def factors_of(original: Callable, size: int, other_sizes: tuple[int, ...]) -> Factors:
    """How the function takes them; `Mismatch` unless it is the formula for heads of all sizes and
    dtypes there."""

    def runs(sequences: int) -> bool:
        freqs = torch.ones(sequences, 5, 1, dtype=torch.complex64, device="cpu")
        x = torch.zeros(sequences, 5, 3, 2, device="cpu")
        try:
            original(x, x, freqs)
        except Exception:  # such factors do not go with heads there, or with so many sequences
            return False
        return True

    taken = Factors(heads_at=2, is_shared=not runs(2)) if runs(1) else Factors(heads_at=1)
    check_formula(original, taken, size, other_sizes)
    return taken


def check_formula(
    original: Callable, taken: Factors, size: int, other_sizes: tuple[int, ...]
) -> None:
    def candidate(q: Tensor, k: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
        return formula(q, k, freqs, taken)

    for dtype in (torch.float32, *HALVES):
        for is_last in (False, True):
            check(original, candidate, taken, size, "cpu", dtype, is_last=is_last)
    check(original, candidate, taken, size, tokens=1)
    check(original, candidate, taken, size, tokens=37, scale=OUTLYING)
    check(original, candidate, taken, size, scale=TINY)
    check(original, candidate, taken, size, tokens=LONG)
    for other in other_sizes:
        check(original, candidate, taken, other)


def check(
    original: Callable,
    candidate: Callable,
    taken: Factors,
    size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tokens: int = 5,
    scale: float = 1.0,
    is_last: bool = True,
) -> None:
    """`Mismatch` unless both rotate alike. is_last: of the two shapes of factors that it takes for
    two sequences."""
    generator = torch.Generator().manual_seed(17)
    several = (tokens, 1) if taken.is_shared else (2, tokens)
    # No angles: the operator reads both parts of each factor.
    leading = several if is_last else (1, tokens)
    freqs = torch.view_as_complex(random((*leading, size // 2, 2), generator).to(device))
    inputs = [
        (random((2, tokens, heads, size), generator) * scale).to(device, dtype) for heads in (3, 1)
    ]
    inputs = [x.transpose(1, 3 - taken.heads_at) for x in inputs]
    try:
        original(*inputs, freqs)
    except Exception as error:
        raise Mismatch(f"it does not take heads and complex factors: {error}") from error
    own, mine = (lambda *x: original(*x, freqs)), (lambda *x: candidate(*x, freqs))
    assert_same(own, mine, inputs, (), f"rotating {size} in {dtype}")


def meta_call(sizes: tuple[int, int, int], dtype: torch.dtype, taken: Factors) -> MetaCall | None:
    """sizes: query heads, key heads, and that of a head. None for float64, which goes to the
    function itself: factors have float32."""
    if dtype == torch.float64:
        return None
    *counts, size = sizes
    heads_at = taken.heads_at

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta").requires_grad_()

        heads = (empty(batch, tokens, count, size).transpose(1, 3 - heads_at) for count in counts)
        freqs = torch.empty(1, tokens, size // 2, dtype=torch.complex64, device="meta")
        q, k = functional.complex_rope(*heads, freqs, heads_at)
        (q.sum() + k.sum()).backward()

    return MetaCall("rope", ("complex", *sizes, dtype, heads_at), run)
