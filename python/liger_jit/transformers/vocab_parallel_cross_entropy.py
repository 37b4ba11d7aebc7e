"""Cross entropy of logits that tensor parallelism has spread over ranks, as a module."""

from torch import nn

from ..functional import vocab_parallel_cross_entropy
from ..ops import choice, choices
from .loss_forms import labels


class LigerVocabParallelCrossEntropy(nn.Module):
    """`functional.vocab_parallel_cross_entropy`: a loss for each token, of target's shape."""

    def __init__(
        self,
        ignore_index=-100,
        label_smoothing=0.0,
        reduction="none",
        label_smoothing_formula="pytorch",
        label_smoothing_mode="global",
    ):
        super().__init__()
        if reduction != "none":
            raise ValueError(
                f"{type(self).__name__}: reduction={reduction!r} is not supported; allowed: 'none'"
            )
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"{type(self).__name__}: label_smoothing={label_smoothing}; "
                "allowed: from 0.0 to less than 1.0"
            )
        op = "vocab_parallel_cross_entropy"
        for option, value in (
            ("label_smoothing_formula", label_smoothing_formula),
            ("label_smoothing_mode", label_smoothing_mode),
        ):
            choice(op, option, value, choices(op, option))
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.label_smoothing_formula = label_smoothing_formula
        self.label_smoothing_mode = label_smoothing_mode

    def forward(self, vocab_parallel_logits, target, tp_group=None):
        return vocab_parallel_cross_entropy(
            vocab_parallel_logits,
            labels(target),
            tp_group,
            self.ignore_index,
            self.label_smoothing,
            self.label_smoothing_formula,
            self.label_smoothing_mode,
        )
