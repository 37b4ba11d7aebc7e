"""torch.compile of what eager does: a fresh compile for each case, with its sizes as constants."""

import torch

from . import eager


def __getattr__(op):
    function = getattr(eager, op)
    torch._dynamo.reset()  # else the limit of recompiles turns a later case into eager
    return torch.compile(function, dynamic=False)
