"""Autocast on a device. Some, as meta, have none, and torch raises if it is asked there."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode

# Of what norms are made of: what autocast on a GPU computes in float32, in any release of torch.
IN_FLOAT32 = frozenset({"layer_norm", "norm", "pow", "reciprocal", "rms_norm", "rsqrt", "sum"})


class AutocastOfGpus(TorchFunctionMode):
    """Does to such operations on the CPU what autocast on a GPU does to them. with_the_cpus: only
    where autocast is on for the CPU, which a forward may turn off."""

    def __init__(self, with_the_cpus: bool = False):
        super().__init__()
        self.with_the_cpus = with_the_cpus

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "").strip("_")
        on = not self.with_the_cpus or torch.is_autocast_enabled("cpu")
        if on and (name in IN_FLOAT32 or name == "rpow"):
            args, kwargs = in_float32(args), in_float32(kwargs or {})
        return function(*args, **(kwargs or {}))


def in_float32(given: object) -> object:
    """With tensors of 16 bits as float32."""
    if isinstance(given, torch.Tensor):
        return given.float() if given.dtype in (torch.bfloat16, torch.float16) else given
    if isinstance(given, (tuple, list)):
        return type(given)(map(in_float32, given))
    if isinstance(given, dict):
        return {name: in_float32(value) for name, value in given.items()}
    return given


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Of a matrix product under autocast; None where it is off."""
    kind = device.type
    if not _has_autocast(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def have_one_dtype(*tensors: torch.Tensor) -> bool:
    """Whether torch computes with them in one dtype: their own, or autocast's, which leaves float64
    alone."""
    dtypes = {one.dtype for one in tensors}
    if len(dtypes) == 1:
        return True
    return autocast_dtype(tensors[0].device) is not None and torch.float64 not in dtypes


def _has_autocast(kind: str) -> bool:
    # Not every release of torch can ask that in a graph.
    if torch.compiler.is_compiling():
        return kind in ("cpu", "cuda", "xpu", "mps")
    return torch.amp.is_autocast_available(kind)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
