"""What the losses of distillation share: their arguments, and the operator behind them."""

from ..functional import fused_linear_distillation
from .module import ChunkedLoss, options


class Distillation:
    """`functional.fused_linear_distillation` in Liger Kernel's order, with a divergence."""

    divergence: str

    @classmethod
    def apply(
        cls,
        student_input,
        student_weight,
        teacher_input,
        teacher_weight,
        true_labels,
        student_bias,
        teacher_bias,
        weight_hard_loss=0.5,
        weight_soft_loss=0.5,
        beta=0.5,
        ignore_index=-100,
        temperature=1.0,
        compiled=True,
        chunk_size=1024,
        return_soft_hard_loss=False,
    ):
        """The loss, or with return_soft_hard_loss (loss, soft loss, hard loss), float32 on the
        device. Hidden states [tokens, H] or [B, T, H], labels [tokens] or [B, T]."""
        output = fused_linear_distillation(
            student_input,
            student_weight,
            teacher_input,
            teacher_weight,
            true_labels,
            student_bias,
            teacher_bias,
            divergence=cls.divergence,
            beta=beta,
            weight_hard_loss=weight_hard_loss,
            weight_soft_loss=weight_soft_loss,
            temperature=temperature,
            ignore_index=ignore_index,
            return_hard_loss=return_soft_hard_loss,
        )
        return tuple(output) if return_soft_hard_loss else output.loss


@options
class DistillationLoss(ChunkedLoss):
    """A module of such a function, its `function`."""

    weight_hard_loss: float = 0.5
    weight_soft_loss: float = 0.5
    beta: float = 0.5
    ignore_index: int = -100
    temperature: float = 1.0
    compiled: bool = True
    chunk_size: int = 1024
    return_soft_hard_loss: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.temperature == 0:
            raise ValueError(f"{type(self).__name__}: temperature=0; allowed: a positive number")

    def forward(
        self,
        student_input,
        student_weight,
        teacher_input,
        teacher_weight,
        true_labels,
        student_bias=None,
        teacher_bias=None,
    ):
        return self.function.apply(
            student_input,
            student_weight,
            teacher_input,
            teacher_weight,
            true_labels,
            student_bias,
            teacher_bias,
            **self.options(),
        )
