"""Layouts that rotary functions take beside batches of heads in rows under tables [1 or B, T, R].

Tables [T, R] are shared by all sequences, as in the towers of packed pictures, or are those of one
sequence, whose heads have no dimension for it. Keys are left out where queries alone are turned.
Heads lie in columns where a convolution made them.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guard import is_usable
from ..modes import is_watched
from ..probe import HALVES, Mismatch, assert_same, random


@dataclass(frozen=True)
class Layouts:
    """Which of them a function was seen to take. shared: tables [T, R]. alone: queries without
    keys. columns: heads in columns, whose results then lie in rows."""

    shared: bool = False
    alone: bool = False
    columns: bool = False


def are_columns(x: Tensor) -> bool:
    return x.transpose(-1, -2).is_contiguous()


def with_shared(turn: Callable) -> Callable:
    """`turn`, a function of batches under tables of batches, that takes tables [T, R] as well."""

    def apply(q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, unsqueeze_dim: int):
        heads = (q,) if k is None else (q, k)
        # What is none of ours is not so much as viewed.
        if is_watched() or not all(map(is_usable, (*heads, cos, sin))):
            return None
        if cos.dim() != 2 or unsqueeze_dim not in (0, 1):
            return turn(q, k, cos, sin, unsqueeze_dim)
        tables = cos.unsqueeze(0), sin.unsqueeze(0)
        if q.dim() != 3:
            return turn(q, k, *tables, unsqueeze_dim + 1)
        k = None if k is None else k.unsqueeze(0)
        both = turn(q.unsqueeze(0), k, *tables, unsqueeze_dim + 1)
        return both and tuple(None if x is None else x.squeeze(0) for x in both)

    return apply


def takes_shared(
    original: Callable,
    formula: Callable,
    single: bool,
    more: list,
    size: int,
    parts: int,
    wide: bool,
) -> bool:
    """Whether it is the formula under tables [T, R]: of heads of several sequences, and of one,
    before their tokens and after them. more: what it takes between tables and the dimension of
    heads. parts: how often the width of tables goes into what they rotate. wide: whether heads of
    16 bits keep their dtype under tables of float32."""
    part = max(size, 8)
    layouts = itertools.product(((2,), ()), (0, 1), (part, part // 4 * 2), (torch.float32, *HALVES))
    try:
        for leading, unsqueeze_dim, width, dtype in layouts:
            shapes = [
                (*leading, *((heads, 5) if unsqueeze_dim == 0 else (5, heads)), part)
                for heads in ((3,) if single else (3, 2))
            ]
            for of_tables in {dtype, torch.float32} if wide else {dtype}:
                generator = torch.Generator().manual_seed(23)
                inputs = [random(shape, generator, dtype) for shape in shapes]
                tables = [random((5, width // parts), generator, of_tables) for _ in range(2)]
                check_shared(original, formula, inputs, (*tables, *more, unsqueeze_dim), parts)
    except Mismatch:
        return False
    return True


def check_shared(
    original: Callable, formula: Callable, heads: list[Tensor], given: tuple, parts: int
) -> None:
    """`Mismatch` unless both rotate alike; it may take no tables that are for less than a head."""
    try:
        original(*heads, *given)
    except Exception as error:
        if given[0].shape[-1] * parts < heads[0].shape[-1]:
            return
        raise Mismatch(f"it takes no tables of one sequence: {error}") from error
    own, mine = (lambda *x: original(*x, *given)), (lambda *x: formula(*x, *given))
    assert_same(own, mine, heads, (), "under tables of one sequence")
