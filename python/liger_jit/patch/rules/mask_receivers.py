"""Whether all that a model gives its mask to does as well without one.

A model hands its mask to its layers and these to their attention, each by the arguments of its
forward. Without a mask scaled dot product attention asks the module whether it is causal. So all of
them must be transformers' own, with nothing on the way that reads or changes what they are given.
"""

import inspect
from collections.abc import Iterator

from torch import nn
from torch.nn.modules import module as torchs_modules

from ..installed import installed_in, is_ours
from ..source.definition import innermost, names_in
from ..source.transformers_own import is_of_transformers

# The implementation of attention that asks its module whether it is causal, and where it asks.
TOLD, SAYS = "sdpa", "is_causal"
ATTENDS = ("ALL_ATTENTION_FUNCTIONS", "scaled_dot_product_attention")


def needs_mask(model: nn.Module) -> str | None:
    """Why the model needs its mask; None if nothing that is given it does."""
    said: dict[str, set[bool]] = {}
    for name, module in receivers(model):
        if not is_as_written(module):
            return f"{name} may do another thing with its mask than transformers wrote"
        if hasattr(module, SAYS):
            place = ".".join(part for part in name.split(".") if not part.isdigit())
            said.setdefault(place, set()).add(bool(module.is_causal))
            settings = getattr(module, "config", None)
            if getattr(settings, "_attn_implementation", TOLD) != TOLD:
                return f"{name} has another implementation of attention"
    # Attention to an encoder is causal in no layer, and is given another mask.
    if said and {False} == set().union(*said.values()):
        return "none of its attention is causal by itself"
    mixed = [name for name, answers in said.items() if len(answers) > 1]
    return f"some of its {mixed[0]} are not causal by themselves" if mixed else None


def receivers(parent: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What may be given the mask of `parent`, by path, down to what attends."""
    for name, child in parent.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from receivers(child, f"{path}{name}.")
        elif takes_mask(child):
            yield f"{path}{name}", child
            if not attends(child):
                yield from receivers(child, f"{path}{name}.")


def takes_mask(module: nn.Module) -> bool:
    """Of what transformers wrote, by name; of torch, wrappers that hand on whatever they are given;
    of others' modules, those that are given two things."""
    forward = type(module).forward
    try:
        _, *inputs = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return True
    if is_of_transformers(forward):
        return any("mask" in one.name for one in inputs)
    hands_on = any(one.kind is one.VAR_KEYWORD for one in inputs)
    return hands_on or (len(inputs) > 1 and not is_of(forward, "torch"))


def attends(module: nn.Module) -> bool:
    code = getattr(innermost(type(module).forward), "__code__", None)
    return code is not None and not names_in(code).isdisjoint(ATTENDS)


def is_as_written(module: nn.Module) -> bool:
    """Whether its forward is transformers', a wrapper of torch or a replacement of ours, and no
    hook sees what it is given but those that shard, gather or record outputs."""
    installed, own, forward = installed_in(module), vars(module), type(module).forward
    if "forward" in own and (installed is None or not is_ours(module, installed)):
        return False
    if not is_of_transformers(forward) and not is_of(forward, "torch"):
        return False
    hooks = (
        *own["_forward_pre_hooks"].values(),
        *own["_forward_hooks"].values(),
        *torchs_modules._global_forward_pre_hooks.values(),
        *torchs_modules._global_forward_hooks.values(),
    )
    return all(is_of(hook, "torch", "transformers") for hook in hooks)


def is_of(function: object, *packages: str) -> bool:
    return (getattr(function, "__module__", None) or "").split(".")[0] in packages
