"""Whether a mode of torch that the caller is in sees the operations of a forward.

What it does with them, to count, to replace or to round them, is part of what the forward computes,
and one operator in place of many would take that away. So under a mode a module's own forward runs,
unless the mode is one of torch's that loses nothing.
"""

import contextlib

import torch
from torch.overrides import _pop_mode_temporarily as without_function_mode
from torch.utils._python_dispatch import _pop_mode_temporarily as without_dispatch_mode

WATCHED = "a mode of torch that sees its operations is on"
# Asked at each call: how many of either kind the thread is in.
FUNCTION_MODES = torch._C._len_torch_function_stack
DISPATCH_MODES = torch._C._len_torch_dispatch_stack

# By module and name, as their packages take long to import, and no subclass.
HARMLESS = frozenset({
    # Where new tensors are made: torch.set_default_device.
    ("torch.utils._device", "DeviceContext"),
    # Tensors without values, and what records or rewrites a graph, where an operator is a node.
    ("torch._subclasses.fake_tensor", "FakeTensorMode"),
    ("torch._subclasses.functional_tensor", "FunctionalTensorMode"),
    ("torch.fx.experimental.proxy_tensor", "ProxyTorchDispatchMode"),
    ("torch.fx.experimental.proxy_tensor", "PreDispatchTorchFunctionMode"),
    ("torch.fx.experimental.proxy_tensor", "TorchFunctionMetadataMode"),
    ("torch._export.non_strict_utils", "_NonStrictTorchFunctionHandler"),
    ("torch.export._safeguard", "AutogradStateOpsFailSafeguard"),
    # Selective checkpoints: a policy is asked of an operator as of any other, and what it does not
    # keep is computed again, to the same values.
    ("torch.utils.checkpoint", "_CachingTorchDispatchMode"),
    ("torch.utils.checkpoint", "_CachedTorchDispatchMode"),
})  # fmt: skip


def is_watched() -> bool:
    """Whether a mode that is not known to be harmless is on in this thread."""
    if FUNCTION_MODES() and in_function_mode():
        return True
    # What torch.compile traces is in no dispatch mode: in one that it does not know it compiles
    # nothing.
    if torch.compiler.is_compiling() or not DISPATCH_MODES():
        return False
    return in_dispatch_mode()


def in_function_mode() -> bool:
    return sees_operations(torch._C._get_function_stack_at, FUNCTION_MODES())


def in_dispatch_mode() -> bool:
    return sees_operations(torch._C._get_dispatch_stack_at, DISPATCH_MODES())


def sees_operations(mode_at, count: int) -> bool:
    for i in range(count):
        kind = type(mode_at(i))
        if (kind.__module__, kind.__name__) not in HARMLESS:
            return True
    return False


@contextlib.contextmanager
def unwatched():
    """Out of the modes that see operations, for what was called before they came on."""
    with contextlib.ExitStack() as left:
        while in_function_mode():
            left.enter_context(without_function_mode())
        while in_dispatch_mode():
            left.enter_context(without_dispatch_mode())
        yield
