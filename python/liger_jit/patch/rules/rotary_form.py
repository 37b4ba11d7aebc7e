"""The forms of rotary embeddings that models have: what turns with what, and by which entries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import functional


@dataclass(frozen=True)
class RotaryForm:
    """interleaved: neighbours turn with one another, else the halves of what is rotated.
    half_tables: cos and sin have one entry for each pair. first_half: they have two, and the first
    half of them is used. parted: neighbours that turned with one another become halves."""

    interleaved: bool = False
    half_tables: bool = False
    first_half: bool = False
    parted: bool = False

    @property
    def table_parts(self) -> int:
        """How often the width of cos and sin goes into what they rotate."""
        return 2 if self.half_tables else 1

    def tables(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """As the operator takes them."""
        if not self.first_half:
            return cos, sin
        half = cos.shape[-1] // 2
        return cos[..., :half], sin[..., :half]

    def operator(
        self, q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        if self == USUAL:
            return functional.rope(q, k, cos, sin, unsqueeze_dim)
        pairs = self.half_tables or self.first_half
        cos, sin = self.tables(cos, sin)
        both = functional.rope(q, k, cos, sin, unsqueeze_dim, None, self.interleaved, pairs)
        if not self.parted:
            return both
        width = cos.shape[-1] * (2 if pairs else 1)
        return tuple(None if x is None else self.in_halves(x, width) for x in both)

    def in_halves(self, x: Tensor, width: int) -> Tensor:
        """One copy, which eager arithmetic makes as well."""
        halves = x[..., :width].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        if width == x.shape[-1]:
            return halves.contiguous()
        return torch.cat((halves, x[..., width:]), dim=-1)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The same in plain torch, of tables with a dimension for heads."""
        width = cos.shape[-1] * self.table_parts
        turned, rest = x[..., :width], x[..., width:]
        cos, sin = self.tables(cos, sin)
        if self.half_tables or self.first_half:
            cosines, sines = (cos, cos), (sin, sin)
        else:
            cosines, sines = self.apart(cos), self.apart(sin)
        first, second = self.apart(turned)
        one = first * cosines[0] - second * sines[0]
        other = second * cosines[1] + first * sines[1]
        if self.interleaved and not self.parted:
            return torch.cat((torch.stack((one, other), -1).flatten(-2), rest), dim=-1)
        return torch.cat((one, other, rest), dim=-1)

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.interleaved:
            return x[..., 0::2], x[..., 1::2]
        first, second = x.chunk(2, dim=-1)
        return first, second


# Llama's, which larger operators have as well.
USUAL = RotaryForm()
FORMS = (
    USUAL,
    RotaryForm(interleaved=True),
    RotaryForm(interleaved=True, first_half=True),
    RotaryForm(half_tables=True),
    RotaryForm(interleaved=True, half_tables=True),
    # DeepSeek's.
    RotaryForm(interleaved=True, first_half=True, parted=True),
)
