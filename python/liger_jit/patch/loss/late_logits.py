"""Logits that are computed after a loss was made without them, from what their head had.

They have a place on the way to that loss, as they would have in eager mode. No gradient of the loss
is computed for them, so what stands for it there may be passed on, as hooks of FSDP do, and added
to that of another loss, which is made of these logits; to read it raises.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .lazy_source import Source

FROM_STATES = (
    "comes from the hidden states and never had logits. Call the model with skip_logits=False for "
    "this step."
)
PAST_THIS_TENSOR = (
    "is that of the head's result, past this tensor. Patch the model with cross_entropy=False."
)


def no_gradient(why: str) -> RuntimeError:
    return RuntimeError(
        f"liger_jit: the gradient of logits is asked for, but this step's loss {why}"
    )


class Form(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Form":
        return cls(tensor.shape, tensor.dtype, tensor.device)

    def zeros(self) -> Tensor:
        """In the memory of one."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape).detach()


class NoGradient(Tensor):
    """In place of the gradient of logits. others: what other losses add to it, if any do."""

    others: Tensor | None

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def made(form: Form, others: Tensor | None = None) -> "NoGradient":
        shape, dtype, device = form
        made = Tensor._make_wrapper_subclass(NoGradient, shape, dtype=dtype, device=device)
        made.others = others
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.add.Tensor and not kwargs:
            # Torch adds a sparse gradient to a dense one.
            present = [one.to_dense() for one in map(others_in, args) if one is not None]
            others = functools.reduce(torch.add, present) if present else None
            return NoGradient.made(Form.of(args[0]), others)
        if func is torch.ops.aten.isnan.default and torch.is_anomaly_check_nan_enabled():
            others = others_in(args[0])
            return torch.isnan(Form.of(args[0]).zeros() if others is None else others)
        raise no_gradient(FROM_STATES)


def others_in(gradient: Tensor) -> Tensor | None:
    return gradient.others if isinstance(gradient, NoGradient) else gradient


class Graph(NamedTuple):
    """That logits were computed in. inputs: what they were made from; None has no gradient."""

    inputs: list[GradientEdge | None]
    result: GradientEdge

    def gradients(self, gradient: Tensor, is_kept: bool) -> list[Tensor | None]:
        """is_kept: whether a later backward may ask again. Else what the graph holds is freed, as
        a tanh's result may hold what a hook made of it, and that the result."""
        found = torch.autograd.grad(
            self.result,
            [one for one in self.inputs if one is not None],
            gradient,
            retain_graph=is_kept,
            create_graph=torch.is_grad_enabled(),
        )
        left = iter(found)
        return [None if one is None else next(left) for one in self.inputs]


class History:
    """Of logits in their place.

    before: that of the logits they are made from; without it they are made from hidden states.
    graph: None while they are not computed, and after a backward that freed it. passed_by: the last
    backward of a loss that has no gradient for them. kept: the logits, and how often they had been
    written to, if their backward reads them: writes into them do not count for the graph's.
    """

    def __init__(self, form: Form, before: "History | None"):
        self.form = form
        self.before = before
        self.graph: Graph | None = None
        self.computed = False
        self.passed_by: int | None = None
        self.kept: tuple[Tensor, int] | None = None

    def compute(self, function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        views = [None if one is None else one.view_as(one) for one in tensors]
        logits = function(*views)
        edges = [
            None if one is None or not one.requires_grad else get_gradient_edge(one)
            for one in views
        ]
        self.graph, self.computed = Graph(edges, get_gradient_edge(logits)), True
        return logits.detach()

    def of_loss(self) -> NoGradient | None:
        """The gradient of a loss that was made without these logits, if there are any."""
        passed = [self]
        while passed[-1].before is not None:
            passed.append(passed[-1].before)
        if not any(history.computed for history in passed):
            return None
        for history in passed:
            history.passed_by = torch._C._current_graph_task_id()
        return NoGradient.made(self.form)

    def of_others(self, gradient: Tensor | None, is_kept: bool) -> list[Tensor | None]:
        """The gradients of what these are made from, of losses that were made of these logits.
        is_kept: whether a later backward may ask again."""
        passed_by = self.passed_by == torch._C._current_graph_task_id()
        if passed_by and not isinstance(gradient, NoGradient):  # a hook has put another there
            raise no_gradient(FROM_STATES)
        found = self._through(None if gradient is None else others_in(gradient), is_kept)
        if passed_by and self.before is not None:
            found = [NoGradient.made(self.before.form, *found)]
        return found

    def _through(self, gradient: Tensor | None, is_kept: bool) -> list[Tensor | None]:
        if gradient is None or not self.computed:
            return [None] * (3 if self.before is None else 1)
        if self.graph is None:
            raise RuntimeError(
                "liger_jit: backward through the graph of logits a second time: the first one "
                "freed it. Specify retain_graph=True for that one."
            )
        if self.kept is not None and self.kept[0]._version != self.kept[1]:
            raise RuntimeError(
                "liger_jit: one of the variables needed for gradient computation has been modified "
                f"by an inplace operation: logits of shape {tuple(self.form.shape)}, the output 0 "
                "of a tanh. Write into a copy of them."
            )
        return self.graph.gradients(gradient, is_kept)


class Place:
    """Of a block's logits: `tensor`, which has no memory of its own until they are computed.

    made: (the place of the logits that these are made from, what is done to those), if others may
    see those; else they are what their source says.
    """

    def __init__(self, source: Source, made: "tuple[Place, Callable] | None"):
        self.source = source
        self.made = made
        before = None if made is None else made[0]
        form = Form(source.shape, source.result_dtype, source.states.device)
        self.history = History(form, None if before is None else before.history)
        tensors = source.tensors() if before is None else [before.tensor]
        self.tensor: Tensor | None = _BeforeLogits.apply(self.history, *tensors)

    def filled(self) -> Tensor:
        """The tensor, which others hold from now on."""
        filled, self.tensor = self.tensor, None
        filled.data = self._computed()
        if self.source.is_kept_for_backward:
            self.history.kept = filled.detach(), filled._version
        return filled

    def _computed(self) -> Tensor:
        if self.made is None:
            return self.history.compute(
                lambda *tensors: self.source.of(*tensors).compute(), *self.source.tensors()
            )
        before, function = self.made
        return self.history.compute(function, before._computed().requires_grad_())


def with_place(loss: Tensor, place: Place) -> Tensor:
    """The same loss, with this place on its way, and those it was made from."""
    return _AfterLogits.apply(place.history, loss, place.tensor)


class _BeforeLogits(torch.autograd.Function):
    """From what logits are made of to their place."""

    @staticmethod
    def forward(ctx, history: History, *tensors: Tensor | None):
        ctx.history = history
        ctx.forms = [None if one is None else Form.of(one) for one in tensors]
        ctx.set_materialize_grads(False)
        return history.form.zeros()

    @staticmethod
    def backward(ctx, gradient):
        eager = isinstance(ctx, BackwardCFunction)
        is_kept = not eager or torch._C._autograd._get_current_graph_task_keep_graph()
        found = ctx.history.of_others(gradient, is_kept)
        if not is_kept:
            ctx.history.graph = ctx.history.kept = None
        return None, *_given(ctx, found, ctx.forms)


class _AfterLogits(torch.autograd.Function):
    """From the place of logits to a loss."""

    @staticmethod
    def forward(ctx, history: History, loss: Tensor, place: Tensor):
        ctx.history = history
        return loss.detach()

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient, *_given(ctx, [ctx.history.of_loss()], [ctx.history.form])


def _given(ctx, gradients: list[Tensor | None], forms: list[Form | None]) -> list[Tensor | None]:
    """Compiled autograd, whose contexts are of another class, adds gradients and no None."""
    if isinstance(ctx, BackwardCFunction):
        return gradients
    return [
        form.zeros() if gradient is None and form is not None else gradient
        for gradient, form in zip(gradients, forms, strict=True)
    ]
