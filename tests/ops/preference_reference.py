"""Losses of preferences in plain torch, whose gradients are autograd's and not the derivatives that
an op has by hand, and the rule that they are held to."""

from functools import partial

import torch
import torch.nn.functional as F
from accuracy import TOLERANCE, cast, relative_error, run

IGNORED = -100
LAYER = ("input", "weight", "bias")
SLACK_OF_PRODUCTS = 2e-6


def sequences(input, weight, bias, ids, average):
    logits = (input @ weight.t() + bias).to(torch.promote_types(input.dtype, torch.float32))
    tokens = logits.log_softmax(-1).gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    tokens = torch.where(ids == IGNORED, 0, tokens)
    sums = tokens.sum(1)
    return (sums / (ids != IGNORED).sum(1) if average else sums), tokens, logits.detach()


def logistic(d, e):
    return -(1 - e) * F.logsigmoid(d) - e * F.logsigmoid(-d)


def pairs(formula, average, beta, nll, alpha, input, weight, ids, bias, nll_ids=None, more=None):
    logps, tokens, logits = sequences(input, weight, bias, ids, average)
    c, r = logps.chunk(2)
    if nll_ids is not None:
        tokens = sequences(input, weight, bias, nll_ids, False)[1]
    labels = (ids if nll_ids is None else nll_ids).chunk(2)[0]
    mean = -tokens.chunk(2)[0].sum() / (labels != IGNORED).sum() if nll else c.new_zeros(())
    means = [half.mean() for half in logits.chunk(2)]
    metrics = (c, r, *means, mean, beta * c, beta * r, *(more(c, r) if more else ()))
    return formula(c, r).mean() + alpha * mean, *(one.detach() for one in metrics)


def case(device, dtype, hidden=32, classes=1025, batch=48, tokens=33):
    # Of many tokens, so that a ratio of errors is not luck. Logits have a mean far from zero and
    # the reference is less sure, so that sums and their errors are not those of differences.

    def layer(prefix="", sureness=1):
        x = torch.randn(batch, tokens, hidden, device=device) * sureness
        return {
            f"{prefix}input": x.to(dtype),
            f"{prefix}weight": (torch.randn(classes, hidden, device=device) / 6).to(dtype),
            f"{prefix}bias": (torch.randn(classes, device=device) + 1).to(dtype),
        }

    ids = torch.randint(classes, (batch, tokens), device=device)
    ids[:, :3] = IGNORED
    return layer() | {"ids": ids}, layer("ref_", 0.1)


def check(ours, reference, inputs, **options):
    dtype = inputs["input"].dtype
    limit = TOLERANCE[dtype]
    truth = run(partial(reference, **options), cast(inputs, torch.float64), LAYER)
    eager = run(partial(reference, **options), inputs, LAYER)
    made = run(lambda **tensors: tuple(ours(**tensors, **options)), inputs, LAYER)
    assert truth.keys() == made.keys()
    for name, exact in truth.items():
        few = exact.numel() <= 12 or dtype == torch.float64
        slack = (limit.scalar_slack if few else limit.slack) + SLACK_OF_PRODUCTS
        error, allowed = relative_error(made[name], exact), relative_error(eager[name], exact)
        assert error <= limit.factor * allowed + slack, (name, error, allowed)
