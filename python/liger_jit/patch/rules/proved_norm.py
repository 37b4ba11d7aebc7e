"""A norm that was proved: its form, the operators for it, and what larger kernels take of it."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ... import functional
from ..autocasting import autocast_dtype
from ..installed import standing
from ..probe import LONG, OUTLYING, TINY
from ..rule import Proof
from .memory_order import has_order, in_order_of, is_worth_copies

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# What gradients are compared on: (leading dimensions, size of the values, the weights, the biases).
PROBES = (
    *((leading, 1.0, 1.0, 1.0) for leading in ((), (3,), (2, 3), (2, 3, 4), (1, LONG))),
    ((2, 3), OUTLYING, 1.0, 1.0),
    ((2, 3), TINY, 1.0, TINY),
    ((2, 3), 1.0, TINY, TINY),
    ((2, 3), 1.0, OUTLYING, OUTLYING),
)

# A norm's attribute, or the number that its forward has.
Epsilon = str | float


def epsilon_of(module: nn.Module, epsilon: Epsilon) -> float:
    return getattr(module, epsilon) if isinstance(epsilon, str) else epsilon


@dataclass(frozen=True)
class RmsForm:
    """y = x / rms(x) * (offset + weight); `mode` is where it rounds, `promote` what it returns."""

    mode: str
    offset: float
    promote: bool
    epsilon: Epsilon

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

    epsilon: Epsilon

    def reference(self, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        centred = x.float() - x.float().mean(-1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
        return (scaled if weight is None else weight.float() * scaled).to(x.dtype)


Form = RmsForm | LayerForm


@dataclass(frozen=True, kw_only=True)
class ProvedNorm:
    """A norm for a rule that takes it into something larger. `is_autocast`: whether a GPU's
    autocast computes what it is made of in float32, and gives its result that dtype. `dtypes`: of
    input and weights, those with which it is of its form."""

    is_autocast: bool
    dtypes: frozenset[tuple[torch.dtype, torch.dtype]]

    # What a layer becomes whose sum goes into the norm after it, or into the one before it.
    sum_role: ClassVar[str]
    post_norm_role: ClassVar[str]

    def has_another_dtype(self, x: Tensor) -> bool:
        """Whether autocast is on where x is, and the norm one that it makes float32."""
        if not self.is_autocast or x.dtype == torch.float32 or not x.is_cuda:
            return False
        return autocast_dtype(x.device) is not None

    def takes(self, module: nn.Module, x: Tensor) -> bool:
        """Whether x and the weights are of a width and of dtypes that were proved."""
        raise NotImplementedError

    def after_add(self, module: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of the sum, the sum): see `add_norm`."""
        raise NotImplementedError

    def then_add(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        """residual + the norm of x: see `add_norm`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ProvedRmsNorm(ProvedNorm):
    """One with a weight. `keeps_order`: whether its result lies in memory as its input.
    `keeps_columns`: the same of one that does not lie in rows."""

    form: RmsForm
    keeps_order: bool
    keeps_columns: bool

    sum_role = "fused_add_rms_norm"
    post_norm_role = "rms_norm_add"

    def eps(self, module: nn.Module) -> float:
        return epsilon_of(module, self.form.epsilon)

    def takes(self, module: nn.Module, x: Tensor) -> bool:
        return self.takes_rows_of(x.shape[-1], module, x)

    def takes_rows_of(self, size: int, module: nn.Module, x: Tensor) -> bool:
        """The same of x that is divided into rows of another width."""
        if self.has_another_dtype(x):
            return False
        weight = module._parameters["weight"]
        if weight.dim() != 1 or weight.shape[0] != size:
            return False
        return self.is_proved_for(x.dtype, weight.dtype)

    def is_proved_for(self, x: torch.dtype, weight: torch.dtype) -> bool:
        """Whether it is of that form for an input and a weight of these dtypes."""
        return (x, weight) in self.dtypes

    def takes_alone(self, module: nn.Module, x: Tensor) -> bool:
        """Whether it is the module's forward for that x, with a result as that lies in memory."""
        ordered = x.is_contiguous() or (self.keeps_order and has_order(x))
        if not ordered and self.keeps_columns:
            ordered = is_worth_copies(x, module._parameters["weight"])
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
        form, weight = self.form, module.weight
        if form.promote and left.dtype != weight.dtype:
            total = left + right
            return self(module, total), total
        return functional.fused_add_rms_norm(
            left, right, weight, self.eps(module), form.offset, form.mode
        )

    def then_add(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        form, weight = self.form, module.weight
        if form.promote and x.dtype != weight.dtype:
            return residual + self(module, x)
        return functional.rms_norm_add(
            x, residual, weight, self.eps(module), form.offset, form.mode
        )


@dataclass(frozen=True, kw_only=True)
class ProvedLayerNorm(ProvedNorm):
    """One by mean and deviation. `vectors`: those of weight and bias that it has."""

    vectors: tuple[str, ...]
    epsilon: Epsilon

    sum_role = "fused_add_layer_norm"
    post_norm_role = "layer_norm_add"

    def takes(self, module: nn.Module, x: Tensor) -> bool:
        if self.has_another_dtype(x):
            return False
        if not self.vectors:
            shape = getattr(module, "normalized_shape", x.shape[-1:])
            return (x.dtype, x.dtype) in self.dtypes and x.shape[-1:] == shape
        vectors = [module._parameters[name] for name in self.vectors]
        alike = all((x.dtype, one.dtype) in self.dtypes for one in vectors)
        return alike and all(one.shape == x.shape[-1:] for one in vectors)

    def takes_alone(self, module: nn.Module, x: Tensor) -> bool:
        """Whether it is the module's forward for that x, with a result as that lies in memory."""
        return x.is_contiguous() and self.takes(module, x)

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        return functional.layer_norm(x, *self.options(module))

    def after_add(self, module: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return functional.fused_add_layer_norm(left, right, *self.options(module))

    def then_add(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        return functional.layer_norm_add(x, residual, *self.options(module))

    def options(self, module: nn.Module) -> tuple[Tensor | None, Tensor | None, float]:
        weight = module.weight if "weight" in self.vectors else None
        bias = module.bias if "bias" in self.vectors else None
        return weight, bias, epsilon_of(module, self.epsilon)


@dataclass(frozen=True, eq=False, kw_only=True)
class NormProof(Proof):
    """norm: what a larger kernel needs of it; None for a norm that none takes."""

    norm: ProvedNorm | None = None


def norm_of(module: nn.Module) -> ProvedNorm | None:
    """What a norm that is patched and nothing more computes, if a larger kernel takes it."""
    proof = standing(module)
    return proof.norm if isinstance(proof, NormProof) else None
