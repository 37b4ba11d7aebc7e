"""What a small model is given: two rows of words, with a picture or a sound where it takes one."""

import inspect

import torch
from shown import IMAGE, ROWS, TOKENS, VISION_START, WORDS, shown_to


def inputs_of(model):
    """By name; the first row has the picture from its third token on."""
    torch.manual_seed(7)
    shown, token, count = shown_to(model)
    ids = torch.randint(3, WORDS, (ROWS, max(TOKENS, count + 10)))
    labels = ids.clone()
    labels[0, :4] = -100
    if count:
        ids[0, 1] = VISION_START
        ids[0, 2 : 2 + count] = token
        labels[ids == token] = -100
    kinds_of_tokens = (ids == IMAGE).long()
    inputs = {
        "input_ids": ids,
        "labels": labels,
        **dict.fromkeys(("mm_token_type_ids", "token_type_ids"), kinds_of_tokens),
        **shown,
    }
    takes = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in takes}
