"""What bases for losses of one's own share: the loss is torch code, of log-probabilities that are
made chunk by chunk."""

import torch

from ..functional import linear_log_probs


class TorchLoss(torch.autograd.Function):
    """A function of a linear layer whose forward makes a graph of its own, which its backward
    runs: the loss function is written in torch, and only a chunk's logits exist at a time."""

    @staticmethod
    def leaves(*tensors):
        """The tensors as leaves of that graph; None stays None."""
        return [
            one if one is None else one.detach().requires_grad_(one.requires_grad)
            for one in tensors
        ]

    @staticmethod
    def keep(ctx, loss, leaves):
        """The loss to return from forward."""
        ctx.graph = loss, leaves
        return loss.detach()

    @staticmethod
    def gradients(ctx, incoming):
        """Of each leaf, or None where it has none."""
        loss, leaves = ctx.graph
        # What depends on no leaf, as the loss of no token does, has no gradient at all.
        wanted = [one for one in leaves if one is not None and one.requires_grad]
        if not loss.requires_grad or not wanted:
            return [None] * len(leaves)
        # Kept, since a backward may run again.
        made = torch.autograd.grad(loss, wanted, incoming, retain_graph=True, allow_unused=True)
        of_leaf = dict(zip(map(id, wanted), made, strict=True))
        return [of_leaf.get(id(one)) for one in leaves]


def loss_and_metrics(returned):
    """What a loss function gave: a loss, or a tuple of it and its metrics, which are detached."""
    if not isinstance(returned, tuple):
        return returned, ()
    loss, *metrics = returned
    return loss, tuple(one.detach() for one in metrics)


def sequence_log_probs(input, weight, target, bias, ignore_index, average):
    """Sums over the tokens of each sequence, or means over those that are not ignored, [B]."""
    tokens, _ = linear_log_probs(input, weight, target, bias, ignore_index=ignore_index)
    sums = tokens.sum(1)
    return sums / target.ne(ignore_index).sum(1).clamp_min(1) if average else sums


@torch.no_grad()
def mean_logits(input, weight, bias):
    """Of each sequence, [B], over its tokens and all classes. The layer is linear, so it is the
    logit of the mean state under the mean row of the weight."""
    exact = torch.promote_types(input.dtype, torch.float32)
    means = input.mean(1, dtype=exact) @ weight.mean(0, dtype=exact)
    return means if bias is None else means + bias.mean(dtype=exact)
