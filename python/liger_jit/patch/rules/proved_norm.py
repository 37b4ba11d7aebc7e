"""A norm that was proved: its form, the operators for it, and what larger kernels take of it."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ... import functional
from ..autocasting import autocast_dtype
from ..installed import standing
from ..rule import Proof
from .memory_order import has_order, in_order_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class RmsForm:
    """y = x / rms(x) * (offset + weight); `mode` is where it rounds, `promote` what it returns."""

    mode: str
    offset: float
    promote: bool
    epsilon: str

    def reference(self, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        scaled = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        out = x.dtype
        if weight is not None:
            if self.mode == "llama":
                scaled = (weight + self.offset if self.offset else weight) * scaled.to(x.dtype)
            else:
                scaled = scaled * (self.offset + weight.float())
            if self.promote:
                out = torch.promote_types(x.dtype, weight.dtype)
        return scaled.to(out)


@dataclass(frozen=True)
class LayerForm:
    """y = (x - mean(x)) / std(x) * weight in float32, rounded to x's dtype at the end."""

    epsilon: str

    def reference(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        centred = x.float() - x.float().mean(-1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
        return (weight.float() * scaled).to(x.dtype)


Form = RmsForm | LayerForm


@dataclass(frozen=True)
class ProvedNorm:
    """A norm with a weight, for a rule that takes the norm into something larger. `keeps_order`:
    whether its result lies in memory as its input. `is_autocast`: whether a GPU's autocast computes
    what it is made of in float32, and gives its result that dtype. `dtypes`: of input and weight,
    those with which it is of that form."""

    form: RmsForm
    keeps_order: bool
    is_autocast: bool
    dtypes: frozenset[tuple[torch.dtype, torch.dtype]]

    def eps(self, module: nn.Module) -> float:
        return getattr(module, self.form.epsilon)

    def takes(self, module: nn.Module, x: Tensor) -> bool:
        """Whether x and the weight are of a width and of dtypes that were proved."""
        if self.has_another_dtype(x):
            return False
        weight = module._parameters["weight"]
        if weight.dim() != 1 or weight.shape[0] != x.shape[-1]:
            return False
        return self.is_proved_for(x.dtype, weight.dtype)

    def is_proved_for(self, x: torch.dtype, weight: torch.dtype) -> bool:
        """Whether it is of that form for an input and a weight of these dtypes."""
        return (x, weight) in self.dtypes or x == weight == torch.float64

    def has_another_dtype(self, x: Tensor) -> bool:
        """Whether autocast is on where x is, and the norm one that it makes float32."""
        if not self.is_autocast or x.dtype == torch.float32 or not x.is_cuda:
            return False
        return autocast_dtype(x.device) is not None

    def takes_alone(self, module: nn.Module, x: Tensor) -> bool:
        """Whether it is the module's forward for that x, with a result as that lies in memory."""
        ordered = x.is_contiguous() or (self.keeps_order and has_order(x))
        return ordered and self.takes(module, x)

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return self.of_rows(module, x)
        return in_order_of(x, partial(self.of_rows, module))

    def of_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        form = self.form
        return functional.rms_norm(
            x, module.weight, self.eps(module), form.offset, form.mode, form.promote
        )

    def after_add(self, module: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of the sum, the sum): see `add_norm`."""
        form, weight = self.form, module.weight
        if form.promote and left.dtype != weight.dtype:
            total = left + right
            return self(module, total), total
        return functional.fused_add_rms_norm(
            left, right, weight, self.eps(module), form.offset, form.mode
        )

    def then_add(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        """residual + the norm of x: see `add_norm`."""
        form, weight = self.form, module.weight
        if form.promote and x.dtype != weight.dtype:
            return residual + self(module, x)
        return functional.rms_norm_add(
            x, residual, weight, self.eps(module), form.offset, form.mode
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class NormProof(Proof):
    """norm: what a larger kernel needs of it; None for a norm that none takes."""

    norm: ProvedNorm | None = None


def norm_of(module: nn.Module) -> ProvedNorm | None:
    """What a norm that is patched and nothing more computes, if a larger kernel takes it."""
    proof = standing(module)
    return proof.norm if isinstance(proof, NormProof) else None
