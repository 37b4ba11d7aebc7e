"""What a checkpoint inside a model's forward runs, and runs again in a backward.

By then the forward is over, and what it asked of its loss forgotten: the second run has plain
logits. It must keep what the first run kept, so the first has plain logits too.
"""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch._C import _autograd
from torch.autograd.graph import saved_tensors_hooks

Hooks = tuple[Callable, Callable]


def hooks_here() -> Hooks | None:
    """What packs and unpacks the tensors that are saved for a backward here."""
    return _autograd._top_saved_tensors_default_hooks(True)


def is_of_checkpoint(hooks: Hooks | None) -> bool:
    return hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint"


def checkpoint_here() -> object | None:
    """What tells the innermost `torch.utils.checkpoint` without reentry from all others, in its
    first run or in its second; None outside of one."""
    hooks = hooks_here()
    return hooks[0] if is_of_checkpoint(hooks) else None


@contextlib.contextmanager
def saved_by(hooks: Hooks | None) -> Iterator[None]:
    """What is saved in it goes to these hooks, and never to a checkpoint: what the second run will
    find done must not count. Without hooks torch keeps tensors as it does by itself.

    A function may save its own result. What a hook made of that, if it holds it, would keep all for
    ever where no backward comes by, so hooks get what has no history.
    """
    here = []
    while (top := hooks_here()) is not None:
        here.append(top)
        _autograd._pop_saved_tensors_default_hooks()
    usable = hooks is not None and not is_of_checkpoint(hooks)
    usable = usable and _autograd._saved_tensors_hooks_is_enabled()

    def pack(tensor: Tensor) -> object:
        return hooks[0](tensor if isinstance(tensor, nn.Parameter) else tensor.detach())

    try:
        with saved_tensors_hooks(pack, hooks[1]) if usable else contextlib.nullcontext():
            yield
    finally:
        for one in reversed(here):
            _autograd._push_saved_tensors_default_hooks(*one)
