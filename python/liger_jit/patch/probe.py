"""Numeric probes: running a module's own forward on small inputs, beside a candidate.

A probe never touches the live module. It works on a twin: an object of the same class with the same
attributes, whose weights (or whose linear layers) are small random stand-ins. So it costs nothing
at any model size, and it works when the weights are on a GPU, on meta, packed or sharded. Nobody's
hooks see a twin: it has none, and calling it is running its forward.
"""

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

# Norm-wise relative error allowed between two roundings of the same formula.
OUTPUT_ERROR = {
    torch.float64: 1e-6,
    torch.float32: 1e-5,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}
# A gradient adds roundings of its own, so it is given twice as much.
GRADIENT_FACTOR = 2.0
# The dtypes of 16 bits.
HALVES = (torch.bfloat16, torch.float16)
# Tokens of one probe of each formula, so that what begins at some usual number of them shows.
LONG = 130
# How large the values of one probe are, so that what sets in at some outlier shows.
OUTLYING = 1e6
# How small those of another are, so that what is added to them shows beside them.
TINY = 1e-12


T = TypeVar("T")
HOOKS = tuple(name for name in nn.Module().__dict__ if name.endswith("_hooks"))


class Mismatch(Exception):
    """A candidate does not compute what the module's own forward computes."""


class Silent:
    """What a module of a probe is called through: its forward, and no hook, those of all modules
    included. `nn.Module.__call__` has this door for compiled modules."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args, **kwargs):
        return self.module.forward(*args, **kwargs)


def silenced(module: nn.Module) -> nn.Module:
    module.__dict__["_compiled_call_impl"] = Silent(module)
    return module


def twin_of(module: nn.Module, parameters: dict | None = None, modules: dict | None = None):
    """An object of module's class and attributes, with some parameters and children replaced.

    The other children are twins as well. Writes to attributes, lists and buffers of a twin do not
    reach the module; its parameters are the module's own.
    """
    # Not the class's own __new__: that of a module under FSDP2 builds one that is not sharded.
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if type(value) in (list, dict, set):
            twin.__dict__[name] = copy.copy(value)
    twin.__dict__["_parameters"] = dict(module._parameters)
    twin.__dict__["_buffers"] = {
        name: buffer if buffer is None or is_large(buffer) else buffer.detach().clone()
        for name, buffer in module._buffers.items()
    }
    for name in HOOKS:
        twin.__dict__[name] = OrderedDict()
    twin.__dict__.pop("forward", None)
    twin._parameters.update(parameters or {})
    children = module._modules | (modules or {})
    twin.__dict__["_modules"] = {
        name: child if child is None or name in (modules or {}) else twin_of(child)
        for name, child in children.items()
    }
    return silenced(twin)


def is_large(tensor: Tensor) -> bool:
    return tensor.numel() > 1 << 20


class StandIn(nn.Module):
    """Base of what takes a child's place in a twin."""

    def __init__(self):
        super().__init__()
        silenced(self)


def run_own(module: nn.Module, twin: nn.Module, x: Tensor) -> Tensor:
    """What its class's forward gives for one tensor; `Mismatch` if that is no tensor."""
    try:
        own = type(module).forward(twin, x)
    except Exception as error:
        code = getattr(type(module).forward, "__code__", None)
        if code and (others := code.co_varnames[2 : code.co_argcount]):
            needed = ", ".join(others)
            raise Mismatch(f"its own forward does not run without {needed}: {error}") from error
        raise Mismatch(f"its own forward failed in the probe: {error}") from error
    if not isinstance(own, Tensor):
        raise Mismatch("its forward does not return one tensor")
    return own


class SparseLinear(StandIn):
    """A linear map with one weight for each output, in place of a projection in a twin.

    y[..., i] = weight[i] * x[..., i % in_features]: true widths without a true weight.
    """

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # Past the hooks that see parameters of all modules.
        self._parameters["weight"] = nn.Parameter(random((out_features,), generator))
        self.bias = None
        self.source = torch.arange(out_features, device="cpu") % in_features
        # What it was called with, in the order of calls where stand-ins share one list.
        self.calls: list[tuple[nn.Module, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self, x))
        return x[..., self.source.to(x.device)] * self.weight


def random(shape: Sequence[int], generator: torch.Generator, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator, device="cpu").to(dtype)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference; inf where shape or dtype differ."""
    if value.shape != reference.shape or value.dtype != reference.dtype:
        return float("inf")
    difference = torch.linalg.vector_norm(value.double() - reference.double())
    error = (difference / torch.linalg.vector_norm(reference.double()).clamp_min(1e-300)).item()
    return float("inf") if math.isnan(error) else error


def values_and_gradients(
    function: Callable, inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of function(*inputs), and the gradients of a fixed random functional of them."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    generator = torch.Generator().manual_seed(11)
    cotangents = [random(y.shape, generator, y.dtype).to(y.device) for y in outputs]
    leaves = [*inputs, *weights]
    gradients = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
    pairs = zip(leaves, gradients, strict=True)
    return outputs, [torch.zeros_like(x) if g is None else g for x, g in pairs]


def assert_same(original: Callable, candidate: Callable, inputs, weights=(), what="") -> None:
    """Both functions give the same outputs and gradients, or `Mismatch` says how far they are, or
    why there is nothing to compare with. Raises what the candidate raises."""
    try:
        expected, expected_gradients = values_and_gradients(original, inputs, weights)
    except Mismatch:
        raise
    except Exception as error:
        raise Mismatch(f"{what}: the module's own fails in the probe: {error}") from error
    found, found_gradients = values_and_gradients(candidate, inputs, weights)
    if len(expected) != len(found):
        raise Mismatch(f"{what}: {len(found)} outputs, not {len(expected)}")
    for name, pairs, factor in (
        ("output", zip(found, expected, strict=True), 1.0),
        ("gradient", zip(found_gradients, expected_gradients, strict=True), GRADIENT_FACTOR),
    ):
        for value, reference in pairs:
            error = relative_error(value, reference)
            if not error <= factor * OUTPUT_ERROR[reference.dtype]:
                raise Mismatch(f"{what}: {name} differs by {error:.1e} ({reference.dtype})")


def tensor_inputs(forward: Callable) -> int | None:
    """How many inputs a forward of one kind needs, `self` not counted; None if that varies."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    return sum(1 for p in parameters if p.default is p.empty)


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that flows through the module; packed weights do not say, so they mean bfloat16."""
    for parameter in module.parameters():
        if parameter.dtype in OUTPUT_ERROR:
            return parameter.dtype
    return torch.bfloat16


def live_device(module: nn.Module) -> torch.device | None:
    """Where the operators of this module will run; None if its weights do not say, or on meta."""
    parameter = next(module.parameters(), None)
    return None if parameter is None or parameter.device.type == "meta" else parameter.device


def quietly(work: Callable[[], T]) -> T:
    """The result of `work`, which runs where nothing of the caller's reaches it: on a thread of its
    own, without modes, hooks on saved tensors, autocast or an anomaly check. The caller's random
    state is as before."""

    def alone() -> T:
        with (
            torch.random.fork_rng(devices=[]),
            torch.autograd.set_detect_anomaly(False),
            torch.enable_grad(),
        ):
            return work()

    try:
        thread = ThreadPoolExecutor(1)
        result = thread.submit(alone)
    except RuntimeError:  # a process that may start no thread
        return alone()
    with thread:
        return result.result()
