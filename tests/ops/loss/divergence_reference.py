"""The three divergences in plain torch, and distributions to try them on."""

import torch
import torch.nn.functional as torch_functional


def reduced(each, reduction, labels=None, ignore_index=-100):
    if labels is not None:
        each = each * (labels != ignore_index).unsqueeze(-1)
    if reduction == "none":
        return each
    rows = each.shape[0] if labels is None else (labels != ignore_index).sum()
    count = {"sum": 1, "batchmean": rows, "mean": rows * each.shape[-1]}[reduction]
    return each.sum() / count


def kl_div_reference(input, target, reduction="mean", log_target=False, eps=1e-10):
    if log_target:
        each = target.exp() * (target - input)
    else:
        each = target * (target.clamp(min=eps).log() - input)
    return reduced(each, reduction)


def jsd_reference(input, target, labels=None, beta=0.5, ignore_index=-100, reduction="batchmean"):
    def kl(log_p, log_q):
        return log_p.exp() * (log_p - log_q)

    if beta in (0.0, 1.0):
        each = kl(target, input) if beta == 0.0 else kl(input, target)
    else:
        log_m = torch.lerp(input.exp(), target.exp(), beta).log()
        each = beta * kl(target, log_m) + (1 - beta) * kl(input, log_m)
    return reduced(each, reduction, labels, ignore_index)


def tvd_reference(input, target, labels=None, reduction="mean", ignore_index=-100):
    return reduced((input - target).abs() / 2, reduction, labels, ignore_index)


def distributions(rows, width, device, dtype, log, scale=2.0):
    """Those of a student and a teacher."""
    logits = [scale * torch.randn(rows, width, device=device) for _ in range(2)]
    made = torch_functional.log_softmax if log else torch.softmax
    return [made(one, -1).to(dtype) for one in logits]


def some_labels(rows, device):
    labels = torch.arange(rows, device=device)
    labels[::3] = -100
    return labels
