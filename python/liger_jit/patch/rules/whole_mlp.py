"""A gated MLP as one node of the graph, while its projections are plain linear layers.

That node keeps gate and up for the backward and not their product. Whether a projection is plain is
asked at each forward: adapters, hooks, quantised or sharded weights may come after the patch.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import linear as linear_file

from ... import functional
from ...meta_calls import MetaCall
from ..autocasting import have_one_dtype
from ..guard import is_hooked
from ..lookup import answers_for
from ..probe import assert_same, random, run_own, twin_of
from ..source.torchs_own import LINEAR, LINEAR_FORWARD, LINEAR_FORWARD_CODE

PROBE_TOKENS, PROBE_HIDDEN = 3, 8
A_LINEAR = nn.Linear(1, 1, bias=False, device="meta")


def is_plain(projection: Callable) -> bool:
    """x @ weight.T and nothing else, on an ordinary tensor. Any callable may stand there."""
    if type(projection) is not nn.Linear:
        return False
    own = projection.__dict__
    parameters = own["_parameters"]  # reading an attribute takes a microsecond
    weight = parameters.get("weight")
    return (
        nn.Linear.forward is LINEAR_FORWARD
        and LINEAR_FORWARD.__code__ is LINEAR_FORWARD_CODE
        and parameters.get("bias", own) is None  # else it may be a buffer
        and type(weight) in (nn.Parameter, Tensor)
        and weight.layout is torch.strided
        and weight.numel() > 0
        and "weight" not in own
        and "bias" not in own
        and "forward" not in own
        and not is_hooked(projection)
    )


def are_linear() -> bool:
    """Whether torch's linear layers multiply by what they hold, and by torch's own function."""
    own = F.linear is LINEAR and linear_file.F.linear is LINEAR
    return own and not answers_for(nn.Linear, "weight") and not answers_for(nn.Linear, "bias")


def keeps_less(gate: nn.Module, up: nn.Module | None, down: nn.Module) -> bool:
    """Whether the node keeps less than the modules would. A frozen projection keeps no input: with
    down frozen they have no product to save, and with gate and up frozen they do not keep x."""
    if not torch.is_grad_enabled():
        return True
    inner = gate.weight.requires_grad or (up is not None and up.weight.requires_grad)
    return inner and down.weight.requires_grad


def go_together(x: Tensor, gate: Tensor, up: Tensor | None, down: Tensor) -> bool:
    """Whether torch multiplies them, and all are of one dtype to it. Without `up`, gate is both."""
    if gate.shape[1:] != x.shape[-1:] or x.device != gate.device:
        return False
    rows = gate.shape[:1] if up is not None else (gate.shape[0] / 2,)
    if down.shape[1:] != rows or (up is not None and up.shape != gate.shape):
        return False
    return have_one_dtype(x, gate, down) if up is None else have_one_dtype(x, gate, up, down)


def whole_run(
    names: tuple[str, ...], activation: str, otherwise: Callable[[nn.Module, Tensor], Tensor]
) -> Callable:
    """The MLP as one node, or `otherwise` where a projection is not plain.

    `names` are those of gate, up and down, or of gate over up in one weight, and down.
    """
    gate_name, down_name = names[0], names[-1]
    up_name = names[1] if len(names) == 3 else None

    def run(self, x):
        gate, down = getattr(self, gate_name), getattr(self, down_name)
        up = getattr(self, up_name) if up_name else None
        plain = type(x) is Tensor and are_linear() and is_plain(gate) and is_plain(down)
        plain = plain and (up is None or is_plain(up))
        if not plain or not keeps_less(gate, up, down):
            return otherwise(self, x)
        up_weight = None if up is None else up.weight
        if not go_together(x, gate.weight, up_weight, down.weight):
            return otherwise(self, x)  # torch's errors are its own
        return functional.gated_mlp(x, gate.weight, up_weight, down.weight, activation)

    return run


def is_whole(module: nn.Module, names: tuple[str, ...]) -> bool:
    """True if the module as it is now would take the one node in training."""
    *inner, down = [getattr(module, name) for name in names]
    if not are_linear() or not all(map(is_plain, (*inner, down))):
        return False
    return down.weight.requires_grad and any(one.weight.requires_grad for one in inner)


def check_whole(
    module: nn.Module,
    names: tuple[str, ...],
    width: int,
    run: Callable,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """`Mismatch` unless the node equals the module's own forward on dense projections.

    They are as wide as the module's own between gate and down, which is what kernels are made for,
    and narrow outside.
    """
    generator = torch.Generator().manual_seed(19)
    both = width if len(names) == 3 else 2 * width

    def linear(outputs: int, inputs: int) -> nn.Linear:
        weight = random((outputs, inputs), generator) * inputs**-0.5
        return twin_of(A_LINEAR, {"weight": nn.Parameter(weight.to(device, dtype))})

    layers = {name: linear(both, PROBE_HIDDEN) for name in names[:-1]}
    layers[names[-1]] = linear(PROBE_HIDDEN, width)
    twin = twin_of(module, modules=layers)
    x = random((1, PROBE_TOKENS, PROBE_HIDDEN), generator, dtype).to(device)
    weights = [layer.weight for layer in layers.values()]
    own = lambda x: run_own(module, twin, x)  # noqa: E731
    assert_same(own, lambda x: run(twin, x), [x], weights, "the whole MLP")


def whole_meta_call(
    sizes: tuple[int, int, int], dtype: torch.dtype, activation: str, packed: bool
) -> MetaCall:
    """Of an MLP of `sizes` (in, between, out)."""
    inputs, width, outputs = sizes

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        gate = empty(2 * width if packed else width, inputs)
        up = None if packed else empty(width, inputs)
        x, down = empty(batch, tokens, inputs), empty(outputs, width)
        functional.gated_mlp(x, gate, up, down, activation).sum().backward()

    return MetaCall("gated_mlp", (*sizes, dtype, activation, packed), run)
