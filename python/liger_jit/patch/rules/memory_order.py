"""In which order the dims of a tensor lie in memory.

Eager arithmetic leaves its results in the order of its inputs, and a view of one may need that. The
operator of a norm gives what is contiguous.
"""

from collections.abc import Callable

from torch import Tensor


def has_rows(x: Tensor) -> bool:
    """Whether its last dim lies innermost, as the operators read and write it."""
    return x.dim() == 0 or x.stride(-1) == 1 or x.shape[-1] == 1


def has_order(x: Tensor) -> bool:
    """Whether `in_order_of` takes it: rows, and no two of them in one place."""
    if x.is_contiguous():
        return True
    return has_rows(x) and all(x.stride(i) or x.shape[i] == 1 for i in range(x.dim()))


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
    leading = range(x.dim() - 1)
    order = sorted(leading, key=lambda dim: -x.stride(dim)) if has_rows(x) else list(leading)
    if order == list(leading):
        return operator(x)
    back = [order.index(dim) for dim in leading]
    return operator(x.permute(*order, -1)).permute(*back, -1)
