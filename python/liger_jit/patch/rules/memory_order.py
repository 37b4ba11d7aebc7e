"""In which order the dims of a tensor lie in memory.

Eager arithmetic leaves its results in the order of its inputs, and a view of one may need that. The
operator of a norm gives what is contiguous.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def has_rows(x: Tensor) -> bool:
    """Whether its last dim lies innermost, as the operators read and write it."""
    return x.dim() == 0 or x.stride(-1) == 1 or x.shape[-1] == 1


def has_order(x: Tensor) -> bool:
    """Whether `in_order_of` takes it without a copy: rows, and no two of them in one place."""
    return x.is_contiguous() or (has_rows(x) and has_places(x))


def has_places(x: Tensor) -> bool:
    """Whether each element has a place of its own."""
    return all(x.stride(i) or x.shape[i] == 1 for i in range(x.dim()))


def is_worth_copies(x: Tensor, weight: Tensor | None) -> bool:
    """Whether `in_order_of` takes what does not lie in rows, in less time than eager arithmetic: a
    copy there and one back cost more than its forward, and less than its backward."""
    if not torch.is_grad_enabled() or not has_places(x):
        return False
    return x.requires_grad or (weight is not None and weight.requires_grad)


def is_in_order(x: Tensor) -> bool:
    """Whether eager arithmetic on it gives what is contiguous: it is, or is a part of what is."""
    if x.is_contiguous():
        return True
    strides = [stride for stride, size in zip(x.stride(), x.shape) if size > 1]
    return has_order(x) and strides == sorted(strides, reverse=True)


def in_order_of(x: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """`operator(x)`, a map of rows, with its dims in the order in memory of those of x."""
    if x.is_contiguous():
        return operator(x)
    dims = range(x.dim())
    order = sorted(dims, key=lambda dim: -x.stride(dim))
    if has_rows(x):
        order = [*(dim for dim in order if dim != dims[-1]), dims[-1]]
    if order == [*dims]:
        return operator(x)
    back = [order.index(dim) for dim in dims]
    if has_rows(x):
        return reordered(operator(x.permute(order)), back)
    return reordered(operator(x.contiguous()).permute(order).contiguous(), back)


def reordered(y: Tensor, order: list[int]) -> Tensor:
    """Its memory with the dims in that order, and no view of it, as arithmetic gives none: a write
    into a view would part it from its hooks. In what is traced or transformed a view is all there
    is to have."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return y.permute(order)
    return Reordered.apply(y, order)


def without_base(y: Tensor) -> Tensor:
    """The same, and no view."""
    return reordered(y, [*range(y.dim())])


class Reordered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, order):
        ctx.back = [order.index(dim) for dim in range(len(order))]
        return y.permute(order).detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.permute(ctx.back), None
