"""Cross entropy in plain torch, with every option, for the tests of the two losses."""

import torch
import torch.nn.functional as torch_functional

# Each option alone, then together: what interacts is the softcap with all that follows it, and
# class weights with both the smoothing and the mean.
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"lse_square_scale": 1e-2},
    "softcap": {"softcap": 3.0},
    "sum": {"reduction": "sum"},
    "ignored label of zero": {"ignore_index": 0},
    "all at once": {"label_smoothing": 0.2, "lse_square_scale": 1e-2, "softcap": 3.0},
    "all at once, summed": {
        "label_smoothing": 0.2,
        "lse_square_scale": 1e-2,
        "softcap": 3.0,
        "reduction": "sum",
    },
}


def cross_entropy_reference(
    logits,
    target,
    weight=None,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    lse_square_scale=0.0,
    softcap=None,
    num_items=None,
    token_scaling=False,
):
    """(loss, z-loss), the second a part of the first."""
    if weight is not None:
        weight = weight.to(logits.dtype)  # torch takes no other
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    counted = target != ignore_index
    loss = torch_functional.cross_entropy(
        logits,
        target,
        weight,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    z_loss = torch.where(counted, lse_square_scale * logits.logsumexp(-1).square(), 0.0)
    if token_scaling:
        label = target.clamp(0, logits.shape[-1] - 1).unsqueeze(1)
        probability = logits.detach().softmax(-1).gather(1, label).squeeze(1)
        loss, z_loss = loss * probability, z_loss * probability
    if reduction == "none":
        return loss + z_loss, z_loss
    loss, z_loss = loss.sum(), z_loss.sum()
    if reduction == "mean":
        rows = counted.sum() if num_items is None else num_items
        weights = rows
        if weight is not None and num_items is None:
            weights = weight[target.clamp(min=0)][counted].sum()
        loss, z_loss = loss / weights, z_loss / rows
    return loss + z_loss, z_loss


def labels(rows, vocabulary, device, ignore_index=-100):
    """Labels with the first and last class and, past four rows, some that are ignored."""
    target = torch.randint(vocabulary, (rows,), device=device)
    target[0] = vocabulary - 1
    target[-1] = 0
    if rows > 4:
        target[1] = target[rows // 2] = ignore_index
    return target
