"""The generalised Jensen-Shannon divergence from a teacher, of hidden states and a head."""

from .distillation_loss import Distillation, DistillationLoss


class LigerFusedLinearJSDFunction(Distillation):
    """See `Distillation.apply`; beta is 0 to 1, and its limits are KL(teacher, student) and
    KL(student, teacher)."""

    divergence = "jsd"


class LigerFusedLinearJSDLoss(DistillationLoss):
    """See `Distillation.apply`."""

    function = LigerFusedLinearJSDFunction
