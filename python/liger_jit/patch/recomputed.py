"""What a checkpoint inside a model's forward runs, and runs again in a backward.

By then the forward is over, and what it asked of its loss forgotten: the second run has plain
logits. It must keep what the first run kept, so the first has plain logits too.
"""

import contextlib

import torch


def checkpoint_here() -> object | None:
    """What tells the innermost `torch.utils.checkpoint` without reentry from all others, in its
    first run or in its second; None outside of one."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    pack = None if hooks is None else hooks[0]
    return pack if getattr(pack, "__module__", None) == "torch.utils.checkpoint" else None


def outside_of_checkpoint() -> contextlib.AbstractContextManager:
    """For what the second run will find done: the checkpoint must not count what it keeps."""
    if checkpoint_here() is None:
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
