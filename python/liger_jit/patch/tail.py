"""What a model does between its head and its loss function, found by running its own forward."""

import inspect
from contextlib import suppress

import torch
from torch import nn

from .probe import StandIn, twin_of

TOKENS = 3


class _Answer(StandIn):
    """Returns one value whatever it is called with."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *args, **kwargs):
        return self.value


def is_causal_loss(loss_function) -> bool:
    """Whether this is transformers' next-token loss, the one that `next_token_loss` stands for."""
    try:
        from transformers.loss.loss_utils import ForCausalLMLoss
    except ImportError:
        return False
    return loss_function is ForCausalLMLoss


def is_plain_tail(model: nn.Module) -> bool:
    """Whether the loss function gets the very tensor that the head returned.

    The model's own forward is run on a twin whose body and head return stand-ins. Whatever cannot
    be run like that counts as no.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    body_name = getattr(model, "base_model_prefix", "")
    head = model.get_output_embeddings()
    head_name = next((name for name, child in model.named_children() if child is head), None)
    if body_name not in model._modules or head_name is None:
        return False
    states = torch.zeros(1, TOKENS, 4, device="cpu")
    logits = torch.zeros(1, TOKENS, 8, device="cpu")
    twin = twin_of(
        model,
        modules={
            body_name: _Answer(BaseModelOutputWithPast(last_hidden_state=states)),
            head_name: _Answer(logits),
        },
    )

    seen = []

    def loss_function(*args, **kwargs):
        seen.append(kwargs.get("logits", args[0] if args else None))
        return torch.zeros((), device="cpu")

    twin.__dict__["_loss_function"] = loss_function
    ids = torch.zeros(1, TOKENS, dtype=torch.int64, device="cpu")
    with suppress(Exception):
        inspect.unwrap(type(model).forward)(twin, input_ids=ids, labels=ids)
    return len(seen) == 1 and seen[0] is logits
