"""One forward with labels: what was asked of its loss, and the loss itself on logits or states."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from ... import functional
from .label_count import IGNORED, LabelCount
from .replaced import loss_by, replacement

OPTIONS = (
    "skip_logits",
    "return_token_accuracy",
    "return_predicted_tokens",
    "use_token_scaling",
)


@dataclass
class LossCall:
    """What the caller of the model asked for, and what the loss leaves for the output.

    keep_logits: the output must hold real logits.
    labels: how many of them count, if that is on its way.
    bound: that number, while a loss runs whose target is known to be made from these labels.
    in_own_loss: transformers' own loss function runs, which hands its tensors to nobody.
    raised: the model's forward ended by an exception, so nothing of it is made any more.
    blocks: what lazy logits of this call stand for; those of a call are real when it has ended.
    traced: under torch.compile the head's (logits, states, weight, bias).
    fused: a loss was made from lazy logits.
    passed_over: the weights, as its calls of the head had them, of logits that a loss did without.
    unused_logits: under torch.compile the logits that the loss did without, if nothing needs them.
    missed: why no loss was made from lazy logits, while none was.
    checkpoint: the innermost one that the forward itself runs in: see `recomputed`.
    """

    keep_logits: bool
    token_accuracy: bool = False
    predicted_tokens: bool = False
    token_scaling: bool = False
    labels: LabelCount | None = None
    bound: LabelCount | None = None
    in_own_loss: bool = False
    raised: bool = False
    blocks: list[weakref.ref] = field(default_factory=list)
    traced: tuple[Tensor | None, ...] | None = None
    fused: bool = False
    missed: str = "it was not called, or it is compiled by itself"
    passed_over: list[Tensor] = field(default_factory=list)
    unused_logits: Tensor | None = None
    checkpoint: object = None
    found_accuracy: Tensor | None = None
    found_tokens: Tensor | None = None

    @property
    def wants_more(self) -> bool:
        return self.token_accuracy or self.predicted_tokens or self.token_scaling

    @property
    def asked(self) -> dict[str, bool]:
        return {
            "return_token_accuracy": self.token_accuracy,
            "return_predicted_tokens": self.predicted_tokens,
        }

    @contextmanager
    def losing(self, labels: object) -> Iterator[None]:
        """While transformers' own loss runs: it makes its target from `labels` by moving and
        ignoring them."""
        before = self.bound, self.in_own_loss
        self.in_own_loss = True
        self.bound = self.labels if self.labels is not None and self.labels.is_of(labels) else None
        try:
            yield
        finally:
            self.bound, self.in_own_loss = before

    def counted_tokens(self, target: Tensor, ignore_index: int) -> int | None:
        return None if self.bound is None else self.bound.bound_for(target, ignore_index)

    def end(self) -> None:
        """Computes the lazy logits that somebody still holds. Nobody does but code that keeps
        tensors it came across, and weights may be others when it looks at them."""
        for reference in self.blocks:
            if (block := reference()) is not None:
                block.compute()

    def keep(self, output) -> Tensor:
        """Takes what is not the loss out of a loss function's result."""
        if isinstance(output, Tensor):
            return output
        self.found_accuracy = output.token_accuracy
        self.found_tokens = output.predicted_tokens
        return output.loss


def loss_of_states(
    call: LossCall, states, weight, bias, *, target, ignore_index=IGNORED, **options
) -> Tensor:
    """Fused loss of states [N, H] under a head [V, H]; labels [N]."""
    if (other := replacement()) is not None:
        options |= {"target": target, "ignore_index": ignore_index}
        return loss_by(other, call, states, weight, bias, **options)
    return call.keep(
        functional.fused_linear_cross_entropy(
            states,
            weight,
            target,
            bias=bias,
            ignore_index=ignore_index,
            token_scaling=call.token_scaling,
            counted_tokens=call.counted_tokens(target, ignore_index),
            **call.asked,
            **options,
        )
    )


def loss_of_logits(call: LossCall, logits, *, target, ce_weight=None, **options) -> Tensor:
    """Loss of computed logits [N, V]; labels [N]."""
    return call.keep(
        functional.cross_entropy(
            logits,
            target,
            weight=ce_weight,
            token_scaling=call.token_scaling,
            **call.asked,
            **options,
        )
    )


def next_token_loss(
    call: LossCall,
    predictions: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """The loss of a causal language model, as transformers defines it: in float32.

    Args:
        predictions: [B, T, H] states if `weight` [V, H] is given, else [B, T, V] logits.
        labels: [B, T]; position t is scored against label t + 1.
        num_items_in_batch: divides the sum in place of the count of labels that are not ignored.
        shift_labels: [B, T] labels that are shifted already; then `labels` is not read.
    """
    if shift_labels is None:
        target = F.pad(labels, (0, 1), value=ignore_index)[..., 1:].reshape(-1)
    else:
        target = shift_labels.view(-1)
    options = {
        "target": target.to(predictions.device),
        "ignore_index": ignore_index,
        "num_items": num_items_in_batch,
    }
    rows = predictions.reshape(-1, predictions.shape[-1])
    if weight is None:
        loss = loss_of_logits(call, rows, **options)
    else:
        loss = loss_of_states(call, rows, weight, bias, **options)
    return loss.float()
