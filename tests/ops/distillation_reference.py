"""The losses of distillation in plain torch, and layers to try them on."""

import math

import torch
import torch.nn.functional as F

IGNORED = -100
WRT = ("input", "weight", "bias")


def soft_losses(student, teacher, divergence, beta, temperature):
    """Of each row of logits."""
    if divergence == "cosine":
        return beta * (1 - F.cosine_similarity(student, teacher, dim=-1))
    log_q = (student / temperature).log_softmax(-1)
    log_p = (teacher / temperature).log_softmax(-1)
    if divergence == "tvd":
        return (log_q.exp() - log_p.exp()).abs().sum(-1) / 2

    def kl(log_a, log_b):
        a = log_a.exp()
        return torch.where(a == 0, 0, a * (log_a - log_b)).sum(-1)

    beta = {"kl": 0.0, "reverse_kl": 1.0}.get(divergence, beta)
    if beta in (0.0, 1.0):
        return kl(log_q, log_p) if beta else kl(log_p, log_q)
    log_m = torch.logaddexp(log_q + math.log1p(-beta), log_p + math.log(beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def layer_logits(input, weight, bias):
    logits = input @ weight.t()
    logits = logits if bias is None else logits + bias
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)


def distillation_reference(
    input,
    weight,
    teacher_input,
    teacher_weight,
    target=None,
    bias=None,
    teacher_bias=None,
    divergence="jsd",
    beta=0.5,
    weight_hard_loss=0.5,
    weight_soft_loss=0.5,
    temperature=1.0,
):
    student = layer_logits(input, weight, bias)
    teacher = layer_logits(teacher_input, teacher_weight, teacher_bias).detach()
    labels = None if target is None else target.flatten()
    kept = slice(None) if labels is None else labels != IGNORED
    student, teacher = student[kept], teacher[kept]
    count = max(len(student), 1)
    soft = soft_losses(student, teacher, divergence, beta, temperature).sum() / count
    hard = torch.zeros_like(soft)
    if labels is not None:
        hard = F.cross_entropy(student, labels[kept], reduction="sum") / count
    loss = weight_soft_loss * soft + weight_hard_loss * hard
    return loss, soft.detach(), hard.detach()


def layers(
    dtype, device, tokens=37, hidden=32, of_teacher=48, vocabulary=129, bias=True, scale=1.0
):
    """A student's layer and a teacher's that is wider, with labels of which a third is ignored."""

    def tensor(*shape, scale=1.0):
        return (scale * torch.randn(*shape, device=device)).to(dtype)

    inputs = {
        "input": tensor(tokens, hidden),
        "weight": tensor(vocabulary, hidden, scale=scale / hidden**0.5),
        "teacher_input": tensor(tokens, of_teacher),
        "teacher_weight": tensor(vocabulary, of_teacher, scale=scale / of_teacher**0.5),
        "target": torch.randint(vocabulary, (tokens,), device=device),
    }
    inputs["target"][1::3] = IGNORED
    if bias:
        inputs["bias"] = tensor(vocabulary)
        inputs["teacher_bias"] = tensor(vocabulary)
    return inputs
