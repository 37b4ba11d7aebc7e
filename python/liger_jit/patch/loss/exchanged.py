"""Making one tensor object another's tensor, as lazy logits become plain in the objects that a
model's code holds."""

import torch
from torch import Tensor


def exchanged(one: Tensor, other: Tensor) -> bool:
    """Whether each object is the other's tensor from now on, for who has a reference to it, a weak
    one as well; not while C++ holds one of them. torch.utils.swap_tensors refuses weak ones."""
    if one._use_count() > 1 or other._use_count() > 1:
        return False
    try:
        torch._C._swap_tensor_impl(one, other)
    except RuntimeError:  # C++ has a weak one
        return False
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    return True
