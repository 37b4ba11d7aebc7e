"""What is asked of a model while torch.compile traces it, outside of the trace.

What the answer depends on is what attention itself reads in that trace, so that a change of it has
a trace of its own.
"""

import torch
from torch import nn
from torch._dynamo.comptime import comptime

from .mask_receivers import needs_mask


class _Trace:
    """Of the trace that is being made; torch makes one at a time."""

    model: nn.Module | None = None


def does_without_mask(model: nn.Module) -> bool:
    comptime(_remember)
    return _answer()


def _remember(context) -> None:
    variable = context.get_local("model")._i_will_not_complain_if_bc_breaks_VariableTracker()
    _Trace.model = getattr(variable, "value", None)


@torch._dynamo.assume_constant_result
def _answer() -> bool:
    model, _Trace.model = _Trace.model, None
    return isinstance(model, nn.Module) and needs_mask(model) is None
