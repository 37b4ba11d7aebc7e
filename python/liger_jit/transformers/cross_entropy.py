"""Cross entropy as a module."""

from torch import nn

from ..ops import choices
from .functional import liger_cross_entropy


def check_loss_options(module, reduction, label_smoothing, softcap):
    """Raises ValueError, naming the module, for an option that no input could make right."""
    name = type(module).__name__
    reductions = choices("cross_entropy", "reduction")
    if reduction not in reductions:
        allowed = ", ".join(repr(choice) for choice in reductions)
        raise ValueError(f"{name}: reduction={reduction!r} is not supported; allowed: {allowed}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{name}: label_smoothing={label_smoothing}; allowed: from 0.0 to 1.0")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"{name}: softcap={softcap}; allowed: None, or a number above 0")


class LigerCrossEntropyLoss(nn.Module):
    """The loss, or a CrossEntropyOutput with any return flag: `functional.liger_cross_entropy`."""

    def __init__(
        self,
        weight=None,
        ignore_index=-100,
        lse_square_scale=0.0,
        label_smoothing=0.0,
        reduction="mean",
        softcap=None,
        return_z_loss=False,
        return_token_accuracy=False,
        return_predicted_tokens=False,
    ):
        super().__init__()
        check_loss_options(self, reduction, label_smoothing, softcap)
        # A buffer, to move with the module; not in the state, as it is an option.
        self.register_buffer("weight", weight, persistent=False)
        self.ignore_index = ignore_index
        self.lse_square_scale = lse_square_scale
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.softcap = softcap
        self.return_z_loss = return_z_loss
        self.return_token_accuracy = return_token_accuracy
        self.return_predicted_tokens = return_predicted_tokens

    def forward(self, _input, target):
        return liger_cross_entropy(
            _input,
            target,
            self.weight,
            None,
            self.ignore_index,
            None,
            self.reduction,
            self.label_smoothing,
            self.lse_square_scale,
            self.softcap,
            self.return_z_loss,
            self.return_token_accuracy,
            self.return_predicted_tokens,
        )
