"""The loss function that transformers puts after the head of a causal language model."""

from dataclasses import dataclass
from types import CodeType, FunctionType

from ..source.transformers_own import is_transformers


@dataclass(frozen=True)
class OwnLoss:
    """transformers' own next-token loss, and the cross entropy of its file that it ends in."""

    loss: FunctionType
    code: CodeType
    inner: FunctionType
    inner_code: CodeType

    def stands(self) -> bool:
        """Whether it still is what was found. torch.compile traces this."""
        return (
            self.loss.__code__ is self.code
            and self.loss.__globals__.get("fixed_cross_entropy") is self.inner
            and self.inner.__code__ is self.inner_code
        )


def own_loss(loss_function: object) -> OwnLoss | None:
    """None if somebody else wrote a part of it."""
    if not is_transformers(loss_function, "ForCausalLMLoss"):
        return None
    inner = loss_function.__globals__.get("fixed_cross_entropy")
    if not is_transformers(inner, "fixed_cross_entropy"):
        return None
    return OwnLoss(loss_function, loss_function.__code__, inner, inner.__code__)


def is_causal_loss(loss_function) -> bool:
    """Whether this is transformers' next-token loss, the one that `next_token_loss` stands for."""
    try:
        from transformers.loss.loss_utils import ForCausalLMLoss
    except ImportError:
        return False
    return loss_function is ForCausalLMLoss


def labels_of_causal_loss(
    logits=None,
    labels=None,
    vocab_size=None,
    num_items_in_batch=None,
    ignore_index=None,
    shift_labels=None,
    **kwargs,
) -> object:
    """Which of its arguments that loss makes its target from."""
    return labels if shift_labels is None else shift_labels
