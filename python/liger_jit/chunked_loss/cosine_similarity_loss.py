"""The cosine of logits and a teacher's, of hidden states and a head."""

from .distillation_loss import Distillation, DistillationLoss


class LigerFusedLinearCosineSimilarityFunction(Distillation):
    """See `Distillation.apply`; the soft loss is beta times one less the cosine."""

    divergence = "cosine"


class LigerFusedLinearCosineSimilarityLoss(DistillationLoss):
    """See `Distillation.apply`."""

    function = LigerFusedLinearCosineSimilarityFunction
