"""Logits that are computed after a loss was made without them, from what their head had.

They have a place on the way to that loss, as they would have in eager mode. No gradient of the loss
is computed for them, so what stands for it there may be passed on, as hooks of FSDP do, and added
to that of another loss, which is made of these logits; to read it raises.
"""

import functools
import itertools
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
            present = [one for one in map(others_in, args) if one is not None]
            others = functools.reduce(torch.add, present) if present else None
            return NoGradient.made(Form.of(args[0]), others)
        if func is torch.ops.aten.isnan.default and torch.is_anomaly_check_nan_enabled():
            others = others_in(args[0])
            return torch.isnan(Form.of(args[0]).zeros() if others is None else others)
        raise no_gradient(FROM_STATES)


def others_in(gradient: Tensor) -> Tensor | None:
    return gradient.others if isinstance(gradient, NoGradient) else gradient


class History:
    """Of logits in their place.

    made_from, result: the states, weight and bias that they were computed from, and where they are
    in the graph that this made; None while they are not computed. passed_by: the last backward of a
    loss that has no gradient for them.
    """

    def __init__(self, source: Source):
        self.form = Form(source.shape, source.result_dtype, source.states.device)
        self.made_from: list[Tensor | None] | None = None
        self.result: GradientEdge | None = None
        self.passed_by: int | None = None

    def compute(self, source: Source) -> Tensor:
        self.made_from = [None if one is None else one.view_as(one) for one in source.tensors()]
        logits = source.of(*self.made_from).compute()
        self.result = get_gradient_edge(logits)
        return logits.detach()

    def of_loss(self) -> NoGradient | None:
        """The gradient of a loss that was made without these logits, if there are any."""
        if self.result is None:
            return None
        self.passed_by = torch._C._current_graph_task_id()
        return NoGradient.made(self.form)

    def of_others(self, gradient: Tensor | None) -> list[Tensor | None]:
        """The gradients of states, weight and bias, of losses that were made of these logits."""
        passed_by = self.passed_by == torch._C._current_graph_task_id()
        if passed_by and not isinstance(gradient, NoGradient):  # a hook has put another there
            raise no_gradient(FROM_STATES)
        others = None if gradient is None else others_in(gradient)
        if others is None or self.result is None:
            return [None] * 3
        needed = [one is not None and one.requires_grad for one in self.made_from]
        found = torch.autograd.grad(
            self.result,
            list(itertools.compress(self.made_from, needed)),
            others,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
        )
        left = iter(found)
        return [next(left) if one else None for one in needed]


class Place:
    """Of a block's logits: `tensor`, which has no memory of its own until they are computed."""

    def __init__(self, source: Source):
        self.history = History(source)
        self.tensor = _BeforeLogits.apply(self.history, *source.tensors())

    def filled(self, source: Source) -> Tensor:
        self.tensor.data = self.history.compute(source)
        return self.tensor


def with_places(loss: Tensor, places: list[Place]) -> Tensor:
    """The same loss, with these places on its way."""
    histories = [place.history for place in places]
    return _AfterLogits.apply(histories, loss, *[place.tensor for place in places])


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
        return None, *_given(ctx, ctx.history.of_others(gradient), ctx.forms)


class _AfterLogits(torch.autograd.Function):
    """From the places of logits to a loss."""

    @staticmethod
    def forward(ctx, histories: list[History], loss: Tensor, *places: Tensor):
        ctx.histories = histories
        return loss.detach()

    @staticmethod
    def backward(ctx, gradient):
        of_places = [history.of_loss() for history in ctx.histories]
        forms = [history.form for history in ctx.histories]
        return None, gradient, *_given(ctx, of_places, forms)


def _given(ctx, gradients: list[Tensor | None], forms: list[Form | None]) -> list[Tensor | None]:
    """Compiled autograd, whose contexts are of another class, adds gradients and no None."""
    if isinstance(ctx, BackwardCFunction):
        return gradients
    return [
        form.zeros() if gradient is None and form is not None else gradient
        for gradient, form in zip(gradients, forms, strict=True)
    ]
