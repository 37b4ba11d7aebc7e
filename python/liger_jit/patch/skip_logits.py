"""A forward that takes skip_logits where no loss head of ours does.

Trainers that know Liger give skip_logits to every evaluation step, and a loss that is not fused has
nothing to skip.
"""

import inspect

from torch import nn

from .handle import Covered, InstanceValue
from .loss_head import LossHead, labels_position


class WithoutSkipLogits(Covered):
    """In place of a model's forward: the same one, called without skip_logits.

    An object, so that a deep copy of the model gets one that calls the copy.
    """

    __name__ = "forward"

    def __init__(self, model: nn.Module):
        self.model = model
        # Trainers put forwards of their own on the instance, which must go on being called.
        self.trainers = model.__dict__.get("forward")

    @property
    def __signature__(self) -> inspect.Signature:
        bound = type(self.model).forward.__get__(self.model)
        return inspect.signature(self.trainers or bound)

    def __call__(self, *args, **kwargs):
        kwargs.pop("skip_logits", None)
        if self.trainers is not None:
            return self.trainers(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)


def changes(model: nn.Module) -> list[InstanceValue]:
    """None for a model without labels, or whose forward takes skip_logits already."""
    if labels_position(model) is None or takes_skip_logits(model):
        return []
    return [InstanceValue(model, "forward", WithoutSkipLogits(model))]


def takes_skip_logits(model: nn.Module) -> bool:
    """By an earlier patch, whose loss head would miss it."""
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    return type(forwards[0]) is WithoutSkipLogits or any(
        isinstance(getattr(forward, "__self__", None), LossHead) for forward in forwards
    )
