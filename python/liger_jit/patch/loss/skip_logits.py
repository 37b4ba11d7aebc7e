"""A forward that takes skip_logits where no loss head of ours does.

Trainers that know Liger give skip_logits to every evaluation step, and a loss that is not fused has
nothing to skip.
"""

from torch import nn

from ..handle import InstanceValue
from ..stand_in import Covered, HeadForward, StandIn
from .arguments import OwnArguments, labels_position, options_of_ours
from .head import AroundForward


class WithoutSkipLogits(StandIn, Covered):
    """In place of a model's forward: the same one, called without skip_logits, unless its class
    has got one since that takes it."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.arguments = OwnArguments(model)

    def __call__(self, *args, **kwargs):
        options, _ = self.arguments.of(self.stands_for())
        if "skip_logits" in options:
            kwargs.pop("skip_logits", None)
        return super().__call__(*args, **kwargs)


def changes(model: nn.Module) -> list[InstanceValue]:
    """None for a model without labels, or whose forward takes skip_logits already."""
    own = "skip_logits" not in options_of_ours(model)
    if own or labels_position(model) is None or takes_skip_logits(model):
        return []
    return [InstanceValue(model, "forward", WithoutSkipLogits(model))]


def takes_skip_logits(model: nn.Module) -> bool:
    """By an earlier patch, whose loss head would miss it."""
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    return type(forwards[0]) is WithoutSkipLogits or any(
        isinstance(forward, HeadForward | AroundForward) for forward in forwards
    )
