"""PyTorch's own fused operators, on the inputs' dtype."""

import torch.nn.functional as F

from .eager import EPS


def rms_norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, EPS)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def group_norm(x, weight, bias, num_groups):
    return F.group_norm(x, num_groups, weight, bias, EPS)


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target)
