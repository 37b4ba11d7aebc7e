"""Logits that are not computed until something needs their values.

A `LazyLogits` stands for head(hidden) in the code between a model's head and its loss. Casts,
reshapes, slices of leading dimensions, scales and a tanh softcap are written down; a cross entropy
becomes one fused call on the hidden states; any other operation gets the real logits, computed as
the model would have, so unknown code costs memory and never correctness.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from .loss_call import LossCall, loss_of_logits, loss_of_states

# Steps that are written down: ("mul" | "div", number), ("tanh", None), ("cast", dtype).
Step = tuple[str, object]


@dataclass(frozen=True)
class Source:
    """Where logits come from: states [..., H] and a head [V, H], or computed logits [..., V]."""

    states: Tensor
    weight: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    steps: tuple[Step, ...]
    call: LossCall
    with_grad: bool = field(default_factory=torch.is_grad_enabled)

    @property
    def vocabulary(self) -> int:
        return self.states.shape[-1] if self.weight is None else self.weight.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.states.shape[:-1], self.vocabulary)

    @property
    def result_dtype(self) -> torch.dtype:
        casts = [value for name, value in self.steps if name == "cast"]
        return casts[-1] if casts else self.dtype

    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.states, self.weight, self.bias)

    def compute(self) -> Tensor:
        """The logits, by the same operations in the same order as the model would have used."""
        logits = self.states
        if self.weight is not None:
            bias = None if self.bias is None else self.bias.to(self.dtype)
            with torch.autocast(logits.device.type, enabled=False):
                logits = F.linear(logits.to(self.dtype), self.weight.to(self.dtype), bias)
        for name, value in self.steps:
            logits = STEPS[name](logits, value)
        return logits

    def scale_and_softcap(self) -> tuple[float, float | None] | None:
        """(a, c) with logits = c * tanh(a * head / c), or a * head; None for any other steps."""
        scale, outer, capped = 1.0, 1.0, False
        for name, value in self.steps:
            if name == "tanh":
                if capped:
                    return None
                capped = True
            elif name != "cast":
                factor = value if name == "mul" else 1.0 / value
                scale, outer = (scale, outer * factor) if capped else (scale * factor, outer)
        if not capped:
            return scale, None
        return (scale * outer, outer) if outer > 0 else None


STEPS: dict[str, Callable] = {
    "mul": lambda logits, value: logits * value,
    "div": lambda logits, value: logits / value,
    "tanh": lambda logits, value: torch.tanh(logits),
    "cast": lambda logits, value: logits.to(value),
}


class _Defer(torch.autograd.Function):
    """Ties a `LazyLogits` to the graph, for code that hands it to autograd without an operation."""

    @staticmethod
    def forward(ctx, source: Source, *tensors):
        ctx.source = source
        return LazyLogits.wrapping(source)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            leaves = [
                t.detach().requires_grad_(needed) if t is not None else None
                for t, needed in zip(ctx.source.tensors(), ctx.needs_input_grad[1:], strict=True)
            ]
            states, weight, bias = leaves
            logits = replace(ctx.source, states=states, weight=weight, bias=bias).compute()
            wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
            found = iter(torch.autograd.grad(logits, wanted, gradient))
        return None, *(
            next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves
        )


class LazyLogits(torch.Tensor):
    """A tensor of the logits' shape, dtype and device without their values."""

    source: Source
    computed: Tensor | None

    @staticmethod
    def of(source: Source) -> "LazyLogits":
        return _Defer.apply(source, *source.tensors())

    @classmethod
    def wrapping(cls, source: Source) -> "LazyLogits":
        lazy = torch.Tensor._make_wrapper_subclass(
            cls, source.shape, dtype=source.result_dtype, device=source.states.device
        )
        lazy.source, lazy.computed = source, None
        return lazy

    def real(self) -> Tensor:
        """The logits. Kept, so that what is written into them in place is seen later on."""
        with torch._C.DisableTorchFunctionSubclass():
            if self.computed is None:
                with torch.set_grad_enabled(self.source.with_grad):
                    self.computed = self.source.compute()
            return self.computed

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        fold = _FOLDS.get(func)
        if fold is not None:
            with torch._C.DisableTorchFunctionSubclass():
                result = fold(*args, **kwargs)
            if result is not NotImplemented:
                return result
        args, kwargs = _computed((args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = _computed((args, kwargs or {}))
        return func(*args, **kwargs)


def _computed(arguments):
    return tree_map_only(LazyLogits, LazyLogits.real, arguments)


def _open(logits) -> Source | None:
    """The source of logits that can still be folded."""
    if not isinstance(logits, LazyLogits) or logits.computed is not None:
        return None
    # What is done to logits under no_grad has no gradient, nor must its fused form have one.
    return logits.source if logits.source.with_grad == torch.is_grad_enabled() else None


def _then(name: str, value=None) -> Callable:
    def fold(logits):
        source = _open(logits)
        if source is None:
            return NotImplemented
        return LazyLogits.of(replace(source, steps=(*source.steps, (name, value))))

    return fold


def _cast(logits, dtype: torch.dtype):
    if _open(logits) is None or not dtype.is_floating_point:
        return NotImplemented
    return logits if dtype == logits.dtype else _then("cast", dtype)(logits)


def _to(logits, target=None, *rest, dtype=None, device=None, **options):
    if rest or options:
        return NotImplemented
    if isinstance(target, Tensor):
        dtype, device = target.dtype, target.device
    elif isinstance(target, torch.dtype):
        dtype = target
    elif target is not None:
        device = target
    if device is not None and torch.device(device) != logits.device:
        return NotImplemented
    return _cast(logits, dtype or logits.dtype)


def _reshape(logits, *shape):
    """A new shape of the leading dimensions; the vocabulary stays the last."""
    source = _open(logits)
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if source is None or not isinstance(shape, (tuple, list, torch.Size)) or not shape:
        return NotImplemented
    *leading, last = shape
    if last == -1:
        count = 1
        for size in leading:
            count *= size
        if count != source.states.shape[:-1].numel():
            return NotImplemented
    elif last != source.vocabulary:
        return NotImplemented
    states = source.states.reshape(*leading, source.states.shape[-1])
    return LazyLogits.of(replace(source, states=states))


def _take(logits, index):
    """Indexing that leaves the vocabulary whole."""
    source = _open(logits)
    index = index if isinstance(index, tuple) else (index,)
    if source is None or not all(_is_plain(part) for part in index):
        return NotImplemented
    used = [i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else 1 for i in index]
    dots = [position for position, part in enumerate(index) if part is Ellipsis]
    if len(dots) > 1:
        return NotImplemented
    if dots:
        missing = logits.dim() - (sum(used) - 1)
        index = (*index[: dots[0]], *[slice(None)] * missing, *index[dots[0] + 1 :])
        consumed = logits.dim()
    else:
        consumed = sum(used)
    if consumed == logits.dim():
        if not (isinstance(index[-1], slice) and index[-1] == slice(None)):
            return NotImplemented
        index = index[:-1]
    return LazyLogits.of(replace(source, states=source.states[index]))


def _is_plain(part) -> bool:
    if isinstance(part, Tensor):
        return part.dtype in (torch.bool, torch.int64) and not isinstance(part, LazyLogits)
    return part is Ellipsis or (isinstance(part, (int, slice)) and not isinstance(part, bool))


def _scaled(name: str) -> Callable:
    def fold(logits, factor, *rest, **options):
        if not isinstance(logits, LazyLogits):
            logits, factor = factor, logits
        plain = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if rest or options or not plain or factor == 0:
            return NotImplemented
        return _then(name, float(factor))(logits)

    return fold


def _cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    source = _open(input)
    if source is None or size_average is not None or reduce is not None:
        return NotImplemented
    indices = target.dim() == 1 and not target.is_floating_point() and input.dim() == 2
    shape = source.scale_and_softcap()
    if not indices or target.shape[0] != input.shape[0] or shape is None:
        return NotImplemented
    scale, softcap = shape
    loss_of = loss_of_logits if source.weight is None else loss_of_states
    tensors = source.tensors()[:1] if source.weight is None else source.tensors()
    tensors = [None if t is None else t.to(source.dtype) for t in tensors]
    if abs(scale - 1.0) > 1e-6:
        # Scaling the states scales the product; only the bias is left to be scaled beside it.
        tensors[0] = tensors[0] * scale
        if tensors[-1] is not None and len(tensors) == 3:
            tensors[-1] = tensors[-1] * scale
    loss = loss_of(
        source.call,
        *tensors,
        target=target.long(),
        ce_weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        softcap=softcap,
    )
    return loss.to(input.dtype)


def _named(owner, *names: str) -> list:
    return [getattr(owner, name) for name in names]


_METADATA = {
    *(getattr(torch.Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "grad_fn",
        "is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized", "is_nested", "itemsize",
    )),
    *_named(
        torch.Tensor, "dim", "ndimension", "size", "numel", "nelement", "stride", "is_contiguous",
        "is_floating_point", "is_complex", "element_size", "get_device", "__len__", "__hash__",
    ),
    *_named(torch, "is_floating_point", "is_complex", "numel"),
}  # fmt: skip

_FOLDS: dict[Callable, Callable] = {
    F.cross_entropy: _cross_entropy,
    torch.Tensor.float: lambda logits: _cast(logits, torch.float32),
    torch.Tensor.to: _to,
    torch.Tensor.type_as: lambda logits, other: _to(logits, other),
    torch.Tensor.contiguous: lambda logits: NotImplemented if _open(logits) is None else logits,
    torch.Tensor.view: _reshape,
    torch.Tensor.reshape: _reshape,
    torch.reshape: _reshape,
    torch.Tensor.__getitem__: _take,
    torch.Tensor.tanh: _then("tanh"),
    torch.tanh: _then("tanh"),
    **dict.fromkeys(
        [*_named(torch.Tensor, "mul", "multiply", "__mul__", "__rmul__"), torch.mul],
        _scaled("mul"),
    ),
    **dict.fromkeys(
        [*_named(torch.Tensor, "div", "divide", "__truediv__", "true_divide"), torch.div],
        _scaled("div"),
    ),
}
