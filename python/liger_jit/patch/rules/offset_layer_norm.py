"""Layer norms of torch whose weight has an offset, and which turn autocast off, as Nemotron's.

What such a forward computes is tried in each state of autocast that it may ask for: none, one of
the CPU, and one of GPUs, in which it may cast its arguments itself.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import functional
from ..autocasting import AutocastOfGpus, without_autocast
from ..guard import Guard, guard_of
from ..probe import (
    OUTPUT_ERROR,
    Mismatch,
    assert_same,
    random,
    relative_error,
    run_own,
    twin_of,
)
from ..source.reading import read
from .proved_norm import DTYPES, PROBES, Epsilon, ProvedLayerNorm

OFFSETS = (0.0, 1.0)
VECTORS = ("weight", "bias")


@dataclass(frozen=True)
class State:
    """Of autocast on a probe's thread: to `cast` on the CPU, if not None; for GPUs on or off."""

    cast: torch.dtype | None
    of_gpus: bool

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What autocast does to a norm on a GPU is done on the CPU, unless a forward turns it off
        there."""
        before = torch.is_autocast_enabled("cuda")
        torch.set_autocast_enabled("cuda", self.of_gpus)
        try:
            with torch.autocast("cpu", self.cast, enabled=self.cast is not None):
                with AutocastOfGpus(with_the_cpus=True) if self.of_gpus else nullcontext():
                    yield
        finally:
            torch.set_autocast_enabled("cuda", before)


# The dtype of GPUs, float16 unless it was set, is not always that of the CPU.
STATES = (
    State(None, False),
    State(torch.bfloat16, False),
    State(torch.bfloat16, True),
    State(torch.float16, True),
)


@dataclass(frozen=True, kw_only=True)
class OffsetLayerNorm(ProvedLayerNorm):
    """casts: whether its arguments get the dtype of autocast, where that is on for GPUs."""

    offset: float
    casts: bool

    def autocast_dtype(self, x: Tensor) -> torch.dtype | None:
        """That the arguments are cast to; None where they stay as they are."""
        # Without a device, as such forwards ask: it is that of GPUs.
        if not self.casts or not torch.is_autocast_enabled():
            return None
        return torch.get_autocast_dtype(x.device.type)

    def takes(self, module: nn.Module, x: Tensor) -> bool:
        cast = self.autocast_dtype(x)
        if cast is None:  # no matter whether autocast is on
            return super().takes(module, x)
        vectors = [module._parameters[name] for name in self.vectors]
        known = all(one.dtype in DTYPES and one.shape == x.shape[-1:] for one in vectors)
        return known and cast in DTYPES and x.dtype in DTYPES

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        cast = self.autocast_dtype(x)
        x = x if cast is None else x.to(cast)
        return functional.layer_norm(x, *self.options(module, cast))

    def after_add(self, module: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        if self.autocast_dtype(left) not in (None, left.dtype):
            total = left + right
            return self(module, total), total
        return functional.fused_add_layer_norm(left, right, *self.options(module, left.dtype))

    def then_add(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        if self.autocast_dtype(x) not in (None, x.dtype):
            return residual + self(module, x)
        return functional.layer_norm_add(x, residual, *self.options(module, x.dtype))

    def options(
        self, module: nn.Module, cast: torch.dtype | None = None
    ) -> tuple[Tensor | None, Tensor | None, float]:
        weight, bias, eps = super().options(module)
        # A vector's own dtype is float64 only where that of x is, and all stay as they are.
        vectors = (weight + self.offset, bias)
        weight, bias = (one if cast is None or one is None else one.to(cast) for one in vectors)
        return weight, bias, eps

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """The same in plain torch."""
        cast = self.autocast_dtype(x)
        x = x if cast is None else x.to(cast)
        with without_autocast(x.device):
            weight, bias, eps = self.options(module, cast)
            return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def find_offset(module: nn.Module, epsilons: list[str]) -> tuple[OffsetLayerNorm, Guard]:
    """Of a module whose parameters are those of torch's layer norm, with a forward of its own;
    `Mismatch` if it computes something else.

    epsilons: names of the attributes that may be one.
    """
    names = tuple(name for name in VECTORS if module._parameters.get(name) is not None)
    if "weight" not in names:
        raise Mismatch("a layer norm without a weight, and not torch's")
    # Read before it is run, as other norms are.
    found = read(module, type(module).forward, autocast=True)
    guard = guard_of(module, tensors=names, found=found)
    read_epsilons = [name for name in epsilons if name in found.values]
    norm = find_norm(module, names, read_epsilons, is_autocast=not found.autocast)
    check_gradients(module, norm)
    return norm, guard


def find_norm(
    module: nn.Module, names: tuple[str, ...], epsilons: list[Epsilon], is_autocast: bool
) -> OffsetLayerNorm:
    """The one that gives what the module's own forward does, in each state and each dtype.

    is_autocast: it does not turn autocast off, so that on GPUs it is left to its own forward there.
    """
    alike = frozenset((dtype, dtype) for dtype in DTYPES)
    norms = [
        OffsetLayerNorm(
            is_autocast=is_autocast,
            dtypes=alike,
            vectors=names,
            epsilon=epsilon,
            offset=offset,
            casts=casts,
        )
        for epsilon, offset, casts in itertools.product(epsilons, OFFSETS, (True, False))
    ]
    for state in STATES[:2] if is_autocast else STATES:
        for x_dtype, own_dtype in itertools.product(DTYPES, DTYPES):
            if x_dtype != own_dtype and not (state.of_gpus and norms[0].casts):
                continue  # F.layer_norm takes one dtype
            errors = {norm: error_of(module, norm, x_dtype, own_dtype, state) for norm in norms}
            norms = [norm for norm in norms if errors[norm] <= OUTPUT_ERROR[torch.float32]]
            if not norms:
                best = min(errors.values(), default=float("inf"))
                raise Mismatch(
                    f"no known norm computes what it does (closest differs by {best:.1e})"
                )
    # Where nothing turns autocast off, both are the same.
    found = next(norm for norm in norms if not (is_autocast and norm.casts))
    error = error_of(module, found, torch.float64, torch.float64, STATES[0])
    if error <= OUTPUT_ERROR[torch.float32]:
        return replace(found, dtypes=found.dtypes | {(torch.float64, torch.float64)})
    return found


def error_of(
    module: nn.Module,
    norm: OffsetLayerNorm,
    x_dtype: torch.dtype,
    own_dtype: torch.dtype,
    state: State,
) -> float:
    """The largest of a row."""
    (width,) = module.weight.shape
    generator = torch.Generator().manual_seed(7)
    # Rows from tiny to large, so that a wrong epsilon shows.
    rows = torch.logspace(-4, 3, 8, device="cpu").reshape(2, 4, 1)
    x = (random((2, 4, width), generator) * rows).to(x_dtype)
    twin = twin_with(module, norm, own_dtype)
    with state.entered():
        own, found = run_on_rows(module, twin, x), norm.reference(twin, x)
    if own.shape != found.shape:
        return float("inf")
    pairs = zip(found.flatten(0, -2), own.flatten(0, -2), strict=True)
    return max(relative_error(*pair) for pair in pairs)


def run_on_rows(module: nn.Module, twin: nn.Module, x: Tensor) -> Tensor:
    try:
        return run_own(module, twin, x)
    except Mismatch as mismatch:  # one of pictures, say
        raise Mismatch("a layer norm whose forward does not take rows of tokens") from mismatch


def twin_with(module: nn.Module, norm: OffsetLayerNorm, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(19)
    shape = module.weight.shape
    return twin_of(
        module, {name: nn.Parameter(random(shape, generator, dtype)) for name in norm.vectors}
    )


def check_gradients(module: nn.Module, norm: OffsetLayerNorm) -> None:
    """On inputs of each number of dimensions, of many rows, and of large and small values."""
    generator = torch.Generator().manual_seed(3)
    (width,) = module.weight.shape
    for leading, scale, *of_vectors in PROBES:
        twin = twin_with(module, norm, torch.float32)
        with torch.no_grad():
            for name, of_vector in zip(VECTORS, of_vectors):
                if name in norm.vectors:
                    twin._parameters[name].mul_(of_vector)
        assert_same(
            lambda x, twin=twin: run_own(module, twin, x),
            lambda x, twin=twin: norm.reference(twin, x),
            [random((*leading, width), generator) * scale],
            [twin._parameters[name] for name in norm.vectors],
            "the formula",
        )
