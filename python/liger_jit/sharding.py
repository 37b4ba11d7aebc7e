"""How torch's sharded tensors (DTensor) pass through each op, as its declaration says.

An op of independent rows works on the rows that each rank has. What goes whole to every rank, a
weight, then has a gradient that is a sum over the ranks: `Partial`. Where that does not fit, and
for an op that cannot be split at all, torch redistributes the tensors first.
"""

from __future__ import annotations

from typing import Any

import torch

from .imports import when_imported
from .library import native, ops

SHARDED_TENSORS = "torch.distributed.tensor"
LEFT_OUT = (0,)  # the shape of an output that was not asked for, or of a tensor that is not there


def register_when_imported() -> None:
    """Registers all ops with DTensor: now if that is imported, else right after its import, which
    takes half a second."""
    when_imported(SHARDED_TENSORS, _register, "operators cannot take DTensors")


def _register() -> None:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
    from torch.distributed.tensor.experimental import register_sharding

    # What torch caches its answer by: every argument decides, also a None and a list of flags.
    remembered_by = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info
    all_arguments = RuntimeSchemaInfo(0, needs_pytree=True)
    declared = ops()
    made_by_forward = {op["backward"]: op["outputs"] for op in declared if op["backward"]}
    for op in declared:
        if any(one["written"] for one in op["inputs"]):
            continue  # it is only called on plain tensors
        overload = getattr(native(), op["name"]).default
        register_sharding(overload)(_Splits(op, made_by_forward.get(op["name"], ())))
        remembered_by[overload] = all_arguments


def _is_tensor(argument) -> bool:
    """Whether it is a DTensorSpec."""
    return hasattr(argument, "tensor_meta")


class _Splits:
    """The placements that one op accepts on one dimension of a mesh."""

    def __init__(self, op: dict[str, Any], made_by_forward):
        self.kind = op["sharding"]
        self.layouts = [one["layout"] for one in op["inputs"]]
        self.batch_dims = [one["batch_dim"] for one in op["inputs"]]
        self.made_by_forward = [one["name"] in made_by_forward for one in op["inputs"]]
        self.overload = getattr(native(), op["name"]).default

    def __call__(self, *arguments):
        """[(placements of outputs, placements of inputs)], for DTensorSpecs in place of tensors."""
        from torch.distributed.tensor import Partial, Replicate, Shard

        def of_output(before, after):
            grown = [k for k, size in enumerate(before) if size != after[k]]
            if grown:
                return Shard(grown[0])
            return Replicate() if before == LEFT_OUT else Partial()

        tensors = {i: tuple(one.shape) for i, one in enumerate(arguments) if _is_tensor(one)}
        shapes = self._shapes(arguments, {})
        accepted = [([Replicate()] * len(shapes), [Replicate()] * len(tensors))]
        for dim in self._dims(tensors):
            first = next(iter(tensors.values()))
            split = {i: self._dim(i, shape, dim, first) for i, shape in tensors.items()}
            outputs = map(of_output, shapes, self._shapes(arguments, split))
            inputs = [Replicate() if k is None else Shard(k) for k in split.values()]
            accepted.append((list(outputs), inputs))
        return accepted

    def _dims(self, tensors):
        """Along which the first tensor may be split."""
        dims = len(next(iter(tensors.values())))
        if self.kind == "tokens":
            return 0, 2
        return range({"whole": 0, "elements": dims}.get(self.kind, dims - 1))

    def _dim(self, index, shape, dim, first):
        """The dimension of an input that is split with dimension `dim` of the first, or None."""
        if shape == LEFT_OUT:
            return None
        if self.made_by_forward[index]:
            return dim
        batch_dim = self.batch_dims[index]
        if batch_dim >= 0:  # it has no heads
            return {0: None if shape[batch_dim] == 1 else batch_dim, 2: batch_dim + 1}.get(dim)
        if self.layouts[index] == "rows":  # of size 1 it is broadcast
            return dim if shape[dim] == first[dim] else None
        return dim if self.layouts[index] == "strided" and len(shape) == 4 else None

    def _shapes(self, arguments, split):
        """Those of the outputs, where inputs are one longer in the dimensions that are split: what
        is split with them grows with them. The meta kernel knows all options."""

        def made(index, argument):
            if not _is_tensor(argument):
                return argument
            shape = list(argument.shape)
            if split.get(index) is not None:
                shape[split[index]] += 1
            return torch.empty(shape, dtype=argument.tensor_meta.dtype, device="meta")

        outputs = self.overload(*(made(i, one) for i, one in enumerate(arguments)))
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return [tuple(one.shape) for one in outputs]
