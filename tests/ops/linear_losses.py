"""The losses behind a linear layer, as the registry has them."""

import torch
from samples import OPS, PUBLIC, arguments

LAYER = {"input", "weight", "bias"}


def names_of(op):
    return {one["name"] for one in OPS[op]["inputs"]}


LOSSES = [op for op in PUBLIC if {"chunk_tokens", "ignore_index", *LAYER} <= names_of(op)]


def arguments_with_bias(op, device, dtype="f32", **sizes):
    """Of an example, with all that a token may have, and the name of its labels."""
    values = arguments(op, device, dtype, **sizes)
    values["bias"] = torch.randn_like(values["weight"][:, 0])
    if "nll_ids" in values:
        values["nll_ids"] = values["ids"].flip(-1)
    (labels,) = {"ids", "target"} & set(values)
    return values, labels
