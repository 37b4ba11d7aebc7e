"""Running a decoder layer's forward without what it is made of, whatever arguments it wants.

Attention and MLP are stand-ins, so the layer's width and its norms are all that has to fit. What
the forward wants to be given, and how many values it wants from its children, is read from its
source where that says so, and else tried until it runs.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..installed import install
from ..probe import Mismatch, StandIn, random, twin_of
from ..rule import Proof, own_class_forward
from ..source.definition import definition_of, innermost
from ..source.effects import read_effects
from .add_norm_source import outputs_of, passed_by

PROBE_TOKENS = 3
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Bent(StandIn):
    """In place of attention or an MLP: something that bends what it is given, as often as the
    forward that calls it wants values."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, *inputs, **named):
        given = inputs[0] if inputs else named["hidden_states"]
        bent = torch.sin(2 * given)
        return bent if self.outputs == 1 else (bent,) * self.outputs


class Same(StandIn):
    def forward(self, x: Tensor) -> Tensor:
        return x


@contextmanager
def same_dropouts(device: torch.device) -> Iterator[None]:
    """A forward that drops elements itself drops the same ones whenever it is run in this."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(41)
        if on_gpu:
            torch.cuda.default_generators[device.index].manual_seed(41)
        yield


def stand_in(child: nn.Module, outputs: int) -> nn.Module:
    # A random mask would differ between the two runs; both call it at the same place.
    return Same() if isinstance(child, nn.Dropout) else Bent(outputs)


class LayerProbe:
    """Twins of a layer, whose norms have random weights and whose other children are stand-ins,
    those norms included that were refused. Its forward is run without its decorators.

    Raises Mismatch, before anything is run, if the forward may leave something behind.
    """

    def __init__(self, module: nn.Module, proofs: dict, device: torch.device, dtype: torch.dtype):
        own = own_class_forward(module)
        # A branch that is passed by without this argument is not run.
        self.left_out, body = passed_by(own)
        read_effects(module, innermost(own), module._modules, body)
        self.module = module
        self.proofs = {
            name: proof if isinstance(proof, Proof) else None for name, proof in proofs.items()
        }
        generator = torch.Generator().manual_seed(31)

        def made(*shape: int) -> Tensor:
            return random(shape, generator, dtype).to(device)

        def tensors(found: dict) -> dict[str, Tensor]:
            return {
                name: made(*tensor.shape)
                for name, tensor in found.items()
                if tensor is not None and tensor.is_floating_point()
            }

        def parameters(found: dict) -> dict[str, nn.Parameter]:
            return {name: nn.Parameter(value) for name, value in tensors(found).items()}

        self.own = parameters(module._parameters)
        self.buffers = tensors(module._buffers)
        normed = {
            name: child for name, child in module.named_children() if self.proofs[name] is not None
        }
        self.of_norms = {name: parameters(child._parameters) for name, child in normed.items()}
        of_norms = [one for found in self.of_norms.values() for one in found.values()]
        self.weights = [*self.own.values(), *of_norms]
        # A norm without weights may say how long its rows are.
        shapes = (getattr(child, "normalized_shape", None) for child in normed.values())
        rows = [*(one.shape for one in of_norms), *(one for one in shapes if one)]
        width = next((one[-1] for one in rows), 64)
        # One sequence: what wants several values does not take the first tensor's parts for them.
        self.x = made(1, PROBE_TOKENS, width)
        self.like_x = made(1, PROBE_TOKENS, width)

    def twin(self, outputs: dict[str, int], operators: bool = False) -> nn.Module:
        children = {}
        for name, child in self.module.named_children():
            if self.proofs[name] is None:
                children[name] = stand_in(child, outputs.get(name, 1))
                continue
            children[name] = twin_of(child, self.of_norms[name])
            if operators:
                install(children[name], self.proofs[name])
        twin = twin_of(self.module, self.own, children)
        twin._buffers.update(self.buffers)
        return twin

    def ways(self) -> Iterator[tuple[dict, dict]]:
        """(how many values children give, arguments by name), the likeliest first: children give
        what the forward's source unpacks, and arguments that are needed are None."""
        forward = own_class_forward(self.module)
        found = outputs_of(definition_of(forward))
        others = [name for name in self.proofs if self.proofs[name] is None and name not in found]
        several = [found, *({**found, name: 2} for name in others)]
        named = list(inspect.signature(forward).parameters.values())[2:]
        named = [one for one in named if one.kind not in VARIADIC]
        needed = {one.name: None for one in named if one.default is one.empty}
        optional = {one.name: self.like_x for one in named if one.default in (one.empty, None)}
        optional.pop(self.left_out, None)
        for arguments in (needed, optional):
            for outputs in several:
                yield outputs, arguments

    def way_that_works(self) -> tuple[dict, dict]:
        """The first in which the layer's own forward runs; else `Mismatch` with what stopped it."""
        own, first = own_class_forward(self.module), None
        for outputs, arguments in self.ways():
            try:
                self.call(own, self.twin(outputs), arguments, self.x)
            except Mismatch as mismatch:
                first = first or mismatch
            else:
                return outputs, arguments
        raise first

    def call(self, forward: Callable, twin: nn.Module, arguments: dict, x: Tensor) -> Tensor:
        try:
            with same_dropouts(x.device):
                found = innermost(forward)(twin, x, **arguments)
        except Exception as error:
            raise Mismatch(f"it cannot be run on stand-ins: {error}") from error
        found = found[0] if isinstance(found, tuple) else found
        if not isinstance(found, Tensor):
            raise Mismatch("its forward gives no tensor")
        return found
