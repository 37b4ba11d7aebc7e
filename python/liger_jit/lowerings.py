"""Tells torch.compile's code generator, inductor, of our operators before it meets them in a graph.

A release of torch before 2.15 that meets an operator for the first time writes the call as text for
a log, whether anybody reads that or not, and with each argument all that it was made of. Where a
layer reads the residual stream twice, the text doubles with each layer: compiling a model of 16
post-norm layers did not end. It does not write of an operator that it knows.
"""

from __future__ import annotations

import torch

from .imports import when_imported
from .library import minor_of, native, ops

LOWERINGS = "torch._inductor.lowering"
FIRST_WITHOUT_TEXT = (2, 15)


def register_when_imported() -> None:
    """Registers all ops with inductor: now if that is imported, else right after its import."""
    if tuple(map(int, minor_of(torch.__version__).split("."))) < FIRST_WITHOUT_TEXT:
        without = "inductor meets operators unprepared, so that deep models may compile slowly"
        when_imported(LOWERINGS, _register, without)


def _register() -> None:
    """As inductor itself does at the first call."""
    from torch._inductor.lowering import lowerings, make_fallback, tag_to_layout_constraint
    from torch._library.utils import get_layout_constraint_tag

    for op in ops():
        overload = getattr(native(), op["name"]).default
        if overload not in lowerings:
            tag = get_layout_constraint_tag(overload, with_default=True)
            make_fallback(overload, layout_constraint=tag_to_layout_constraint(tag), warn=False)
