"""The loss function that transformers puts after the head of a causal language model."""


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
