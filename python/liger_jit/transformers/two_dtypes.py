"""Calls with tensors of two dtypes, which Liger Kernel takes and the operators do not."""

import torch
from torch import Tensor


def alike(first, second):
    """Both in the wider of their dtypes; what is not of floating point stays for the operator."""
    tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    if not tensors or first.dtype == second.dtype:
        return first, second
    if not (first.is_floating_point() and second.is_floating_point()):
        return first, second
    wide = torch.promote_types(first.dtype, second.dtype)
    return first.to(wide), second.to(wide)


def computed_wide(function, first, second, *options):
    """function(first, second, *options) in the wider of their dtypes, results in the first's."""
    wide, other = alike(first, second)
    results = function(wide, other, *options)
    if wide is first:
        return results
    if isinstance(results, Tensor):
        return results.to(first.dtype)
    return tuple(result.to(first.dtype) for result in results)


def turned(turn, q, k, *tables):
    """turn(q, k, *tables); heads of two dtypes are turned one after the other."""
    if not isinstance(k, Tensor) or k.dtype == q.dtype:
        return turn(q, k, *tables)
    return turn(q, None, *tables)[0], turn(k, None, *tables)[0]
