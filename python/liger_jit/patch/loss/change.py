"""A loss head in its places, and out of them: one of a handle's changes."""

from ..handle import InstanceValue
from ..saved import save_as_unpatched
from ..stand_in import HeadForward, LossFunction
from . import skip_logits
from .head import AroundForward, LossHead, replaced_forward


class PlaceOfHead(InstanceValue):
    def is_free(self) -> bool:
        return replaced_forward(self.owner) is None


class PlaceOfLoss(InstanceValue):
    """A loss with weights of its own stands among the model's modules: torch puts it there."""

    @property
    def now(self) -> object:
        return self.owner._modules.get(self.name, super().now)


class LossChange:
    """places: the forwards of the head and of the model, and the model's loss function. put: what
    the last `apply` put in.

    Where somebody gave the head another forward while the patch was off, nothing is put in but a
    forward that takes skip_logits. A loss function that was set then stays, and is called as one
    that is set while the patch is on.
    """

    def __init__(self, loss_head: LossHead):
        self.loss_head, self.module = loss_head, loss_head.head
        model = loss_head.model
        self.head = PlaceOfHead(self.module, "forward", HeadForward(loss_head))
        self.places = [self.head, InstanceValue(model, "forward", AroundForward(loss_head))]
        if loss_head.causal:
            self.places.append(PlaceOfLoss(model, "_loss_function", LossFunction(loss_head)))
            save_as_unpatched(type(model))
        self.put: list[InstanceValue] = []
        self.reason: str | None = None

    @property
    def counted(self) -> LossHead:
        return self.loss_head

    def reason_out(self) -> str | None:
        """Why the last `apply` left it out; None if it did not."""
        return self.reason

    def apply(self) -> None:
        covered = self.head.is_in() and type(self.head.now) is not HeadForward
        self.reason = None if covered else replaced_forward(self.module)
        self.loss_head.applied = self.reason is None
        if self.loss_head.applied:
            self.loss_head.arguments.read()
            self.put = self.places
        else:
            self.put = skip_logits.changes(self.loss_head.model)
        for place in self.put:
            place.apply()
        self.loss_head.found_loss.of_now()  # noted, as it may have changed while ours was out

    def undo(self) -> None:
        for place in reversed(self.put):
            place.undo()
        self.loss_head.applied = False
