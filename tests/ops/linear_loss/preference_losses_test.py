"""Preference losses beside DPO: each against its formula in plain torch, whose gradients are
autograd's and not the derivatives that the op has by hand."""

import inspect
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accuracy import TOLERANCE, cast, relative_error, run
from liger_jit import chunked_loss
from liger_jit.chunked_loss import functional as chunked
from liger_jit.functional import (
    fused_linear_cpo,
    fused_linear_kto,
    fused_linear_orpo,
    fused_linear_simpo,
)

IGNORED = -100
LAYER = ("input", "weight", "bias")
SLACK_OF_PRODUCTS = 5e-7  # as in fused_linear_dpo_test.py


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


def cpo(beta, label_smoothing, average_log_prob, compute_nll_loss, alpha, **tensors):
    def formula(c, r):
        return logistic(beta * (c - r), label_smoothing)

    return pairs(formula, average_log_prob, beta, compute_nll_loss, alpha, **tensors)


def simpo(beta, gamma, label_smoothing, compute_nll_loss, alpha, **tensors):
    def formula(c, r):
        return logistic(beta * (c - r) - gamma, label_smoothing)

    return pairs(formula, True, beta, compute_nll_loss, alpha, **tensors)


def orpo(beta, compute_nll_loss, alpha, **tensors):
    def odds(c, r):
        return c - r - (torch.log1p(-c.exp()) - torch.log1p(-r.exp()))

    def more(c, r):
        return F.logsigmoid(odds(c, r)).mean(), odds(c, r).mean()

    def formula(c, r):
        return -beta * F.logsigmoid(odds(c, r))

    return pairs(formula, True, beta, compute_nll_loss, alpha, more=more, **tensors)


def kto(
    beta,
    average_log_prob,
    input,
    weight,
    ids,
    bias,
    preference_labels,
    kl=None,
    ref_input=None,
    ref_weight=None,
    ref_bias=None,
):
    logps, _, logits = sequences(input, weight, bias, ids, average_log_prob)
    ratios = logps
    if ref_input is not None:
        ratios = logps - sequences(ref_input, ref_weight, ref_bias, ids, average_log_prob)[0]
    ahead = ratios if kl is None else ratios - kl
    loss = torch.sigmoid(-beta * ahead * torch.where(preference_labels, 1, -1)).mean()
    sums = [
        one[chosen].sum().detach()
        for one in (logps, logits.sum((1, 2)), beta * ratios)
        for chosen in (preference_labels, ~preference_labels)
    ]
    return loss, *sums


def case(device, dtype, hidden=32, classes=129):
    def layer(prefix=""):
        return {
            f"{prefix}input": torch.randn(6, 9, hidden, device=device).to(dtype),
            f"{prefix}weight": (torch.randn(classes, hidden, device=device) / 6).to(dtype),
            f"{prefix}bias": torch.randn(classes, device=device).to(dtype),
        }

    ids = torch.randint(classes, (6, 9), device=device)
    ids[:, :3] = IGNORED
    return layer() | {"ids": ids}, layer("ref_")


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nll", [False, True])
def test_losses_of_pairs_are_as_exact_as_eager(device, dtype, nll):
    inputs, _ = case(device, dtype)
    options = {"beta": 0.3, "compute_nll_loss": nll, "alpha": 0.4}
    for average in (False, True):
        smoothed = {"label_smoothing": 0.1, "average_log_prob": average}
        check(fused_linear_cpo, cpo, inputs, **options, **smoothed)
    check(fused_linear_simpo, simpo, inputs, **options, gamma=0.7, label_smoothing=0.1)
    check(fused_linear_orpo, orpo, inputs, **options)
    # In 16 bits the gradients of both terms are rounded before they are added up.
    if nll and dtype == torch.float32:
        others = torch.randint(129, (6, 9), device=device)
        check(fused_linear_orpo, orpo, inputs | {"nll_ids": others}, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_kto_is_as_exact_as_eager(device, dtype, average, with_reference):
    inputs, reference = case(device, dtype)
    inputs["preference_labels"] = torch.tensor([True, False, True, True, False, False]).to(device)
    inputs |= reference if with_reference else {}
    for kl in ({}, {"kl": torch.tensor(0.3, device=device)}):
        check(fused_linear_kto, kto, inputs | kl, beta=0.05, average_log_prob=average)


def test_what_is_certain_has_finite_odds(device):
    weight = torch.eye(4, 8, device=device) * 60
    input = (torch.eye(8, device=device)[None, :2] * 60).repeat(2, 1, 1).requires_grad_()
    ids = torch.tensor([[0, 1], [0, 1]], device=device)
    made = fused_linear_orpo(input, weight, ids)
    made.loss.backward()
    assert made.loss.isfinite() and input.grad.isfinite().all()


SIGNATURES = {
    "CPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, alpha=1.0, "
        "label_smoothing=0.0, compute_nll_loss=True, compiled=True, average_log_prob=False, "
        "chunk_size=1",
        "ignore_index=-100, beta=0.1, alpha=1.0, label_smoothing=0.0, compute_nll_loss=True, "
        "compiled=True, average_log_prob=False, chunk_size=1",
        "self, lin_weight, _input, target, bias=None",
    ),
    "SimPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, alpha=1.0, "
        "label_smoothing=0.0, compute_nll_loss=False, compiled=True, gamma=0.5, chunk_size=1",
        "ignore_index=-100, beta=0.1, alpha=1.0, label_smoothing=0.0, compute_nll_loss=True, "
        "compiled=True, gamma=0.5, chunk_size=1",
        "self, lin_weight, _input, target, bias=None",
    ),
    "ORPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, compute_nll_loss=True, "
        "nll_target=None, compiled=True, chunk_size=1",
        "ignore_index=-100, beta=0.1, compute_nll_loss=True, compiled=True, chunk_size=1",
        "self, lin_weight, _input, target, bias=None, nll_target=None",
    ),
    "KTO": (
        "_input, weight, target, preference_labels, bias=None, ref_input=None, ref_weight=None, "
        "ref_bias=None, kl=None, ignore_index=-100, beta=0.1, compiled=True, use_ref_model=True, "
        "average_log_prob=False, chunk_size=1",
        "ignore_index=-100, beta=0.1, compiled=True, use_ref_model=False, average_log_prob=False, "
        "chunk_size=1",
        "self, _input, lin_weight, target, bias=None, preference_labels=None, ref_input=None, "
        "ref_weight=None, ref_bias=None, kl=None",
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_modules_have_liger_kernels_arguments_and_compute_the_function(device, name):
    def names(function):
        each = inspect.signature(function).parameters.values()
        return ", ".join(str(one.replace(annotation=one.empty)) for one in each)

    module = getattr(chunked_loss, f"LigerFusedLinear{name}Loss")
    of_function = getattr(chunked, f"liger_fused_linear_{name.lower()}")
    assert (names(of_function), names(module), names(module.forward)) == SIGNATURES[name]
    inputs, reference = case(device, torch.float32)
    given = {"_input": inputs["input"], "lin_weight": inputs["weight"], "bias": inputs["bias"]}
    given["target"] = inputs["ids"]
    if name == "KTO":
        given |= reference
        given["preference_labels"] = torch.arange(6, device=device) % 2 == 0
    made = module(beta=0.2, **({"use_ref_model": True} if name == "KTO" else {}))
    loss, metrics = made(**given)
    wanted = {
        "CPO": lambda: fused_linear_cpo(**inputs, beta=0.2),
        "SimPO": lambda: fused_linear_simpo(**inputs, beta=0.2, compute_nll_loss=True),
        "ORPO": lambda: fused_linear_orpo(**inputs, beta=0.2),
        "KTO": lambda: fused_linear_kto(
            **inputs, **reference, preference_labels=given["preference_labels"], beta=0.2
        ),
    }[name]()
    assert isinstance(metrics, tuple)
    assert all(map(torch.equal, (loss, *metrics), wanted))
    made.beta = 0.9
    assert not torch.equal(made(**given)[0], loss)
