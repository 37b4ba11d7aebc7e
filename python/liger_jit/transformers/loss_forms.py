"""What losses take and return under Liger Kernel's names, where it differs from the operators."""

import torch

from .. import functional as F

_NARROW = frozenset((torch.int32, torch.int16, torch.int8, torch.uint8))


def labels(target):
    """The labels as int64, if they have another integer dtype."""
    return target.long() if getattr(target, "dtype", None) in _NARROW else target


def with_accuracy_of_each(loss_of, target, ignore_index, reduction, accuracy, predicted):
    """The output of `loss_of(accuracy, predicted)`, whose arguments ask for one or the other.

    With reduction="none" token_accuracy is float32 of target's shape: 1 where the label is
    predicted, 0 where it is not or is ignored.
    """
    if not accuracy or reduction != "none":
        return loss_of(accuracy, predicted)
    output = loss_of(False, True)
    counted = target != ignore_index
    output.token_accuracy = ((output.predicted_tokens == target) & counted).float()
    if not predicted:
        output.predicted_tokens = None
    return output


def in_dtype(output, dtype):
    """The loss and z_loss in a dtype."""
    if not isinstance(output, F.CrossEntropyOutput):
        return output.to(dtype)
    output.loss = output.loss.to(dtype)
    return with_z_loss_in(output, dtype)


def with_z_loss_in(output, dtype):
    """The z_loss, if there is one, in a dtype."""
    if isinstance(output, F.CrossEntropyOutput) and output.z_loss is not None:
        output.z_loss = output.z_loss.to(dtype)
    return output
