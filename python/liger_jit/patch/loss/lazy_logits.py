"""Logits that are not computed until something needs their values.

A `LazyLogits` stands for head(hidden) in the code between a model's head and its loss. Casts,
reshapes, slices of leading dimensions, scales and a tanh softcap are written down; a cross entropy
becomes one fused call on the hidden states; any other operation gets the real logits, computed as
the model would have, so unknown code costs memory and never correctness.

Lazy tensors alias as real ones would. Those of one `Block` are views of one tensor; when an
operation needs one of them, that tensor is computed, and all of them that live become plain
tensors: views of it, in the very objects that the model's code holds. So a write through one is
seen through the others, and nothing lazy is left that could be stale.
"""

import contextlib
import functools
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from ..autocasting import autocast_dtype, without_autocast
from ..guard import DTYPES, is_kept, is_plain
from ..modes import is_watched
from ..recomputed import checkpoint_here
from .call import loss_of_logits, loss_of_states
from .exchanged import exchanged
from .late_logits import FROM_STATES, PAST_THIS_TENSOR, no_gradient, with_place
from .lazy_block import Block, Operation, Operations, done, one_at_a_time
from .lazy_names import METADATA, OF_MEMORY, named
from .lazy_source import STEPS, Follow, Source


class _Defer(torch.autograd.Function):
    """Ties a `LazyLogits` to the graph, for code that hands it to autograd without an operation."""

    @staticmethod
    def forward(ctx, make, source: Source, *tensors):
        ctx.source = source
        return make()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.source.are_the_logits:
            return None, None, gradient, None, None
        with torch.enable_grad():
            leaves = [
                t.detach().requires_grad_(needed) if t is not None else None
                for t, needed in zip(ctx.source.tensors(), ctx.needs_input_grad[2:], strict=True)
            ]
            logits = ctx.source.of(*leaves).compute()
            wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
            found = iter(torch.autograd.grad(logits, wanted, gradient))
        return (
            None,
            None,
            *(next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves),
        )


@dataclass
class Standing:
    """What a lazy tensor stands for.

    source: of its own values. form: a meta tensor that is to another's what the real tensors would
    be, a view or a copy. views: from the block's tensor to its own. node: of autograd, as it was
    made. computed: the logits, only where the lazy tensor could not become plain, as C++ code holds
    it. is_alone: whether there is nothing else then that is made of them. Autograd goes by the lazy
    tensor itself from then on, as by that which C++ has; operations get the values of `computed`.
    """

    block: Block
    source: Source
    form: Tensor
    views: Operations
    node: object = None
    computed: Tensor | None = None
    is_alone: bool = False


class LazyLogits(torch.Tensor):
    """A tensor of the logits' shape, strides, dtype and device without their values. It has one
    attribute beside a tensor's own: all other names are free for the model's code to set."""

    _lazy: "Standing"

    @staticmethod
    def _of(source: Source) -> "LazyLogits":
        """Logits of a head."""
        form = torch.empty(source.shape, dtype=source.result_dtype, device="meta")
        return LazyLogits._alone(Block(source), form)

    @staticmethod
    def _alone(block: Block, form: Tensor) -> "LazyLogits":
        return LazyLogits._made(block.source, form, block, ())

    def _copied(self, source: Source, form: Tensor, function: Callable, *arguments) -> "LazyLogits":
        """A copy made of these logits: function(these, *arguments)."""
        step = Operation(function, arguments, torch.is_grad_enabled())
        origins = self._lazy.block.origins_of_a_copy((*self._lazy.views, step))
        return LazyLogits._alone(Block(source, origins), form)

    def _viewed(self, source: Source, form: Tensor, function: Callable, *arguments) -> "LazyLogits":
        """A view of these logits: function(these, *arguments)."""
        step = Operation(function, arguments, torch.is_grad_enabled())
        return LazyLogits._made(source, form, self._lazy.block, (*self._lazy.views, step))

    @staticmethod
    def _made(source: Source, form: Tensor, block: Block, views: Operations) -> "LazyLogits":
        def make() -> LazyLogits:
            lazy = torch.Tensor._make_wrapper_subclass(
                LazyLogits,
                form.shape,
                strides=form.stride(),
                storage_offset=form.storage_offset(),
                dtype=form.dtype,
                device=source.states.device,
            )
            lazy._lazy = Standing(block, source, form, views)
            # C++ code that asks nobody raises, and reads no memory that is not there.
            torch._C._set_throw_on_mutable_data_ptr(lazy)
            return lazy

        with torch._C.DisableTorchFunctionSubclass():
            lazy = _Defer.apply(make, source, *source.tensors())
            lazy._lazy.node = lazy.grad_fn
        block.lazies.append(weakref.ref(lazy))
        return lazy

    def as_subclass(self, kind: type) -> Tensor:
        """Asked of nobody but a class: C++ code would take an alias of this tensor as it is."""
        return real_logits(self).as_subclass(kind)

    def _become_plain(self, is_alone: bool) -> Tensor:
        """Turns this very object into the real tensor, or gives one that stands beside it. The
        block has its tensor."""
        block = self._lazy.block
        real = block.done(self._lazy.views)
        if self.grad_fn is not self._lazy.node:  # as of what a checkpoint hands on
            with torch.enable_grad():
                real = Follow.apply(self, real)
        whole = real is block.tensor
        if not self._swap(real):
            self._lazy.computed, self._lazy.is_alone = real, is_alone
            return real
        if whole:
            block.tensor = self  # what was the tensor is now the lazy one
        return self

    def _swap(self, real: Tensor) -> bool:
        """Makes this object the real tensor and that one lazy; not while C++ holds it, as the node
        of a function that runs does."""
        attributes = {name: value for name, value in self.__dict__.items() if name != "_lazy"}
        if not exchanged(self, real):
            return False
        self.__dict__.update(attributes)
        return True

    def _real(self) -> Tensor:
        """The logits: this object itself, or what stands beside it."""
        if self._lazy.computed is None:
            self._lazy.block.compute()
            return self._lazy.computed if isinstance(self, LazyLogits) else self
        # It may be held no longer, but others have seen what stands beside it: a view of that.
        computed = self._lazy.computed
        with torch._C.DisableTorchFunctionSubclass():
            if self.grad_fn is not self._lazy.node:  # C++ code has written to it
                with torch.enable_grad():
                    view = Follow.apply(self, computed)
            else:
                with torch.set_grad_enabled(self._lazy.source.with_grad):
                    view = computed.view_as(computed)
            return self if self._swap(view) else computed

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with one_at_a_time, torch._C.DisableTorchFunctionSubclass():
            first = args[0] if args else None
            if func in METADATA and type(first) is LazyLogits and first._lazy.computed is None:
                return func(*args, **kwargs)
            fold = _FOLDS.get(func)
            if fold is not None and (args or fold is _cross_entropy):
                result = fold(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        return _called(func, functools.partial(_needed_by, func, len(types) == 1), args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Operations of C++ code, below autograd, which has recorded them with this tensor."""
        stays = any(result.alias_info is not None for result in func._schema.returns)

        def values(lazy: LazyLogits) -> Tensor:
            if stays or func._schema.is_mutable:
                lazy._stay()
            return lazy._values_alone()

        return _called(func, values, args, kwargs or {})

    def _stay(self) -> None:
        """Computes logits that C++ code writes, or has an alias of: they must be there for all."""
        if self._lazy.computed is None:
            with torch.overrides.enable_reentrant_dispatch():  # their own history is recorded
                self._lazy.block.compute()

    def _values_alone(self) -> Tensor:
        """The logits without a history, and without becoming plain: C++ code holds this tensor."""
        if self._lazy.computed is not None:
            return self._lazy.computed.detach()
        if self._lazy.block.tensor is None:
            return self._lazy.source.compute()
        return done(self._lazy.views, self._lazy.block.tensor.detach())


def lazy_logits(source: Source) -> LazyLogits:
    """Logits that are not computed yet, or that become what the head made if they are asked for."""
    _keep_out_of_traces()
    return LazyLogits._of(source)


@functools.cache
def _keep_out_of_traces() -> None:
    """A function that is compiled by itself and gets lazy logits has a graph before and after each
    operation on them: a trace of the Python here would bake in what it saw or lose it. Not done at
    import, as torch's compiler takes seconds to import.
    """
    reason = (
        "liger_jit: these logits are not computed yet. For fullgraph=True compile the whole model, "
        "or call it with skip_logits=False"
    )
    for name in ("__torch_function__", "__torch_dispatch__"):
        function = LazyLogits.__dict__[name].__func__
        setattr(LazyLogits, name, classmethod(torch.compiler.disable(function, reason=reason)))


def _called(function: Callable, values: Callable[[LazyLogits], Tensor], args, kwargs):
    """The function, given `values` of lazy logits. What writes returns what it has written: those
    that did not become plain."""
    lazies: dict[int, LazyLogits] = {}
    as_they_are = contextlib.nullcontext()

    def taken(lazy: LazyLogits) -> Tensor:
        nonlocal as_they_are
        found = values(lazy)
        if found is not lazy:
            lazies[id(found)] = lazy
        elif isinstance(found, LazyLogits):
            as_they_are = torch._C.DisableTorchFunctionSubclass()
        return found

    with one_at_a_time:
        args, kwargs = tree_map_only(LazyLogits, taken, (args, kwargs))
    with as_they_are:
        result = function(*args, **kwargs)
    return tree_map_only(Tensor, lambda t: lazies.get(id(t), t), result) if lazies else result


def _needed_by(function: Callable, is_alone: bool, logits: LazyLogits) -> Tensor:
    """is_alone: whether no other class of tensors is asked."""
    name = getattr(function, "__name__", "a function")
    logits._lazy.source.call.missed = f"its logits were needed by a call of {name}"
    if logits._lazy.computed is None:
        logits._lazy.block.compute()
    if isinstance(logits, LazyLogits) and logits._lazy.is_alone and is_alone:
        return logits._lazy.computed if function in OF_MEMORY else logits
    return real_logits(logits)


def real_logits(value):
    """The logits that a value stands for, computed if they are not; any other value as it is."""
    with one_at_a_time:
        return value._real() if isinstance(value, LazyLogits) else value


def are_of_the_head(logits: LazyLogits) -> bool:
    """Whether they are the very ones that the head gave, whole."""
    return not logits._lazy.views and not logits._lazy.source.steps


def are_computed(logits: LazyLogits) -> bool:
    """Whether these were computed for the loss, and cost nothing more to return."""
    return logits._lazy.source.weight is None


def is_passed_over(logits: LazyLogits) -> bool:
    """Whether a loss was made without what this call of the head, or what was made of it, gives."""
    source = logits._lazy.source
    return any(weight is source.weight for weight in source.call.passed_over)


def _open(logits) -> Source | None:
    """The source of logits that can still be folded."""
    if not isinstance(logits, LazyLogits) or logits._lazy.block.tensor is not None:
        return None
    source = logits._lazy.source
    if is_watched() or checkpoint_here() is not source.call.checkpoint:
        return None
    # What is done to logits under no_grad has no gradient, nor must its fused form have one.
    if source.with_grad != torch.is_grad_enabled() or logits.grad_fn is not logits._lazy.node:
        return None
    return source


def _then(name: str, value=None) -> Callable:
    """A step that makes a copy."""

    def fold(logits, *rest, **options):
        source = _open(logits)
        if source is None or rest or options:
            return NotImplemented
        form = STEPS[name](logits._lazy.form, value)
        return logits._copied(source.then(name, value), form, STEPS[name], value)

    return fold


# Casts to these that round nothing a loss is computed without. To fewer bits a user rounds on
# purpose.
WRITTEN_DOWN = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def _cast(logits, dtype: torch.dtype):
    if _open(logits) is None or dtype not in WRITTEN_DOWN:
        return NotImplemented
    if torch.promote_types(logits.dtype, dtype) != dtype:
        return NotImplemented
    return logits if dtype == logits.dtype else _then("cast", dtype)(logits)


def _float(logits, **options):
    return NotImplemented if options else _cast(logits, torch.float32)


def _to(logits, target=None, *rest, dtype=None, device=None, **options):
    if rest or options:
        return NotImplemented
    if isinstance(target, Tensor):
        dtype, device = target.dtype, target.device
    elif isinstance(target, torch.dtype):
        dtype = target
    elif type(target) in (str, int, torch.device):
        device = target
    elif target is not None:
        return NotImplemented
    if device is not None and torch.device(device) != logits.device:
        return NotImplemented
    return _cast(logits, dtype or logits.dtype)


def _contiguous(logits, **options):
    source = _open(logits)
    if source is None or options:
        return NotImplemented
    if logits._lazy.form.is_contiguous():
        return logits
    computed = source.weight is None  # then they are what is copied
    states = source.states.contiguous() if computed else source.states
    form = logits._lazy.form.contiguous()
    return logits._copied(source.copied(states), form, torch.Tensor.contiguous)


def _shaped(function: Callable) -> Callable:
    """`view`, `reshape` or `flatten` to a new shape of the leading dimensions; the vocabulary stays
    last."""

    def fold(logits, *shape, **options):
        source = _open(logits)
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = (tuple(shape[0]),)  # a list may be another when the view is computed
        sizes = shape[0] if shape and isinstance(shape[0], tuple) else shape
        if source is None or options or not sizes or not all(type(size) is int for size in sizes):
            return NotImplemented
        form = function(logits._lazy.form, *shape)
        if form is logits._lazy.form:  # as a `flatten` of one dimension gives
            return logits
        if form.dim() == 0 or form.shape[-1] != source.vocabulary:
            return NotImplemented
        states = source.states.reshape(*form.shape[:-1], source.states.shape[-1])
        if _is_alias(form, logits._lazy.form):
            return logits._viewed(source.of(states), form, function, *shape)
        return logits._copied(source.copied(states), form, function, *shape)

    return fold


def _take(logits, index):
    """Indexing that leaves the vocabulary whole: by numbers and slices a view, by a tensor a copy
    of rows."""
    source = _open(logits)
    parts = index if isinstance(index, tuple) else (index,)
    if source is None or not parts:
        return NotImplemented
    if isinstance(parts[0], Tensor):
        return _take_rows(logits, source, parts)
    if not all(map(_is_fixed, parts)):
        return NotImplemented
    dots = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1 or len(parts) - len(dots) > logits.dim():
        return NotImplemented
    if dots:
        missing = logits.dim() - (len(parts) - 1)
        parts = (*parts[: dots[0]], *[slice(None)] * missing, *parts[dots[0] + 1 :])
    if len(parts) == logits.dim():
        if not _is_whole(parts[-1]):
            return NotImplemented
        parts = parts[:-1]
    form = logits._lazy.form[index]
    return logits._viewed(source.of(source.states[parts]), form, torch.Tensor.__getitem__, index)


def _take_rows(logits, source: Source, parts: tuple):
    rows, *rest = parts
    kinds = (torch.bool, torch.int64)
    if isinstance(rows, LazyLogits) or rows.dtype not in kinds or not 0 < rows.dim() < logits.dim():
        return NotImplemented
    indexed = rows.dim() if rows.dtype == torch.bool else 1
    if indexed + len(rest) > logits.dim() or not all(map(_is_whole, rest)):
        return NotImplemented
    derived, rows = source.copied(source.states[rows]), rows.clone()  # they may be written to
    form = torch.empty(derived.shape, dtype=derived.result_dtype, device="meta")
    return logits._copied(derived, form, torch.Tensor.__getitem__, rows)


def _is_fixed(part) -> bool:
    """Whether an index will be the same when the view is computed: no tensor, nor a slice of one's
    value."""
    if type(part) is slice:
        return all(end is None or type(end) is int for end in (part.start, part.stop, part.step))
    return part is Ellipsis or type(part) is int


def _is_whole(part) -> bool:
    """Whether an index takes all of its dimension. Arrays and tensors are not to be compared."""
    return type(part) is slice and part.start is part.stop is part.step is None


def _is_alias(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


def _scaled(name: str) -> Callable:
    def fold(logits, factor=None, *rest, **options):
        if not isinstance(logits, LazyLogits):
            if name == "div":  # of a number by logits
                return NotImplemented
            logits, factor = factor, logits
        plain = type(factor) is float or (type(factor) is int and abs(factor) < 2**63)
        if rest or options or not plain or factor == 0:
            return NotImplemented
        return _then(name, float(factor))(logits)

    return fold


def _keeps_half_precision(scale: float) -> bool:
    """Whether float16 tensors may be scaled where the model would scale a product of theirs, maybe
    in float32: powers of two up to 1 round nothing, and small ones would leave too few bits."""
    mantissa, exponent = math.frexp(abs(scale))
    return mantissa == 0.5 and -3 <= exponent <= 1  # from 1/16 to 1


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
    if type(ignore_index) is not int or reduction not in ("mean", "sum", "none"):
        return NotImplemented
    if not all(one is None or is_kept(one) for one in (target, weight)):
        return NotImplemented
    indices = (
        is_plain(target) and target.dim() == 1 and target.dtype == torch.int64 and input.dim() == 2
    )
    shape = source.scale_and_softcap()
    if not indices or target.shape[0] != input.shape[0] or shape is None:
        return NotImplemented
    # Under autocast torch takes the logits of a cross entropy as float32, but for float64.
    casts = autocast_dtype(input.device) is not None and input.dtype != torch.float64
    allowed = DTYPES if casts else (input.dtype,)
    if weight is not None and not (is_plain(weight) and weight.dtype in allowed):
        return NotImplemented
    source.check()
    scale, softcap = shape
    if source.dtype == torch.float16 and not _keeps_half_precision(scale):
        return NotImplemented
    loss_of = loss_of_logits if source.weight is None else loss_of_states
    tensors = source.tensors()[:1] if source.weight is None else source.tensors()
    tensors = [None if t is None else t.to(source.dtype) for t in tensors]
    if scale != 1.0:
        # Scaling the states scales the product; only the bias is left to be scaled beside it.
        tensors[0] = tensors[0] * scale
        if tensors[-1] is not None and len(tensors) == 3:
            tensors[-1] = tensors[-1] * scale
    with without_autocast(input.device):  # the head's, which may have been off, is in its dtype
        loss = loss_of(
            source.call,
            *tensors,
            target=target,
            ce_weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing if label_smoothing > 0 else 0.0,  # as torch has it
            softcap=softcap,
        )
    source.call.fused = True
    if source.weight is not None:
        source.call.passed_over.append(source.weight)
    place = input._lazy.block.place_before_a_loss() if loss.requires_grad else None
    loss = loss if place is None else with_place(loss, place)
    return loss.to(torch.float32 if casts else input.dtype)


def _is_on_the_way(logits: LazyLogits) -> bool:
    """Whether a loss reads these very logits."""
    source = logits._lazy.source
    return source.are_the_logits and not logits._lazy.views


def _no_gradient(logits: LazyLogits) -> RuntimeError:
    view = logits._lazy.source.weight is None
    return no_gradient(PAST_THIS_TENSOR if view else FROM_STATES)


def _gradient(outputs, inputs, *rest, **options):
    """torch.autograd.grad. A loss made from states has no logits in its graph."""
    for logits in inputs if isinstance(inputs, (tuple, list)) else (inputs,):
        if _open(logits) is not None:
            _hook(logits)
    return NotImplemented


def _hook(logits, *rest, **options):
    """On the gradient of logits: after a loss was made from their states there will be none."""
    lazy = isinstance(logits, LazyLogits)
    if lazy and logits._lazy.source.call.fused and not _is_on_the_way(logits):
        raise _no_gradient(logits)
    return NotImplemented


# What runs between a use of logits and its fold: see `_keep_out_of_traces`.
_BELOW_THE_CALLER = (__name__, "torch._dynamo.eval_frame")


def _node(logits, *rest, **options):
    """`grad_fn`, which a hook on several gradients looks at."""
    caller = sys._getframe(1)
    while caller.f_globals.get("__name__") in _BELOW_THE_CALLER:
        caller = caller.f_back
    if caller.f_globals.get("__name__") == "torch.autograd.graph":
        return _hook(logits)
    return NotImplemented


_FOLDS: dict[Callable, Callable] = {
    F.cross_entropy: _cross_entropy,
    torch.autograd.grad: _gradient,
    torch.Tensor.register_hook: _hook,
    torch.Tensor.retain_grad: _hook,
    torch.Tensor.grad_fn.__get__: _node,
    torch.Tensor.float: _float,
    torch.Tensor.to: _to,
    torch.Tensor.type_as: lambda logits, other: _to(logits, other),
    torch.Tensor.contiguous: _contiguous,
    torch.Tensor.view: _shaped(torch.Tensor.view),
    torch.Tensor.reshape: _shaped(torch.Tensor.reshape),
    torch.Tensor.flatten: _shaped(torch.Tensor.flatten),
    torch.reshape: _shaped(torch.reshape),
    torch.flatten: _shaped(torch.flatten),
    torch.Tensor.__getitem__: _take,
    torch.Tensor.tanh: _then("tanh"),
    torch.tanh: _then("tanh"),
    **dict.fromkeys(
        [*named(torch.Tensor, "mul", "multiply", "__mul__", "__rmul__"), torch.mul],
        _scaled("mul"),
    ),
    **dict.fromkeys(
        [*named(torch.Tensor, "div", "divide", "__truediv__", "true_divide"), torch.div],
        _scaled("div"),
    ),
}
