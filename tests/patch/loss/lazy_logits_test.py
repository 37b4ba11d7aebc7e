"""Lazy logits under every kind of tail: folded where they can be, real where they cannot."""

import numpy
import pytest
import torch
from liger_jit.patch.loss.call import LossCall
from liger_jit.patch.loss.lazy_logits import lazy_logits
from liger_jit.patch.loss.lazy_source import Source
from tiny_models import counted, error
from torch.nn import functional as F

LABELS = torch.tensor([[1, -100, 3, 4, 2], [5, 6, 0, 8, -100]])


class Doubled(torch.autograd.Function):
    """Takes tensors past __torch_function__, as wrappers of distributed training do."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class DoubledInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def rows(logits):
    return F.cross_entropy(logits.view(-1, logits.size(-1)), LABELS.view(-1))


def softcap(logits, cap=2.0):
    return torch.tanh(logits / cap) * cap


def written(logits):
    logits[:, :, 3] = -5.0
    return rows(logits)


FUSED = {
    "plain": rows,
    "upcast": lambda logits: rows(logits.float()),
    "to": lambda logits: rows(logits.to(torch.float32).to(logits.device).contiguous()),
    "slices": lambda logits: F.cross_entropy(
        logits[..., :-1, :].contiguous().reshape(-1, 9), LABELS[:, 1:].reshape(-1)
    ),
    "mask": lambda logits: F.cross_entropy(logits[LABELS > 2], LABELS[LABELS > 2]),
    "flattened": lambda logits: F.cross_entropy(logits.flatten(0, 1), LABELS.flatten()),
    "flattened by torch": lambda logits: F.cross_entropy(
        torch.flatten(logits, 0, -2), LABELS.flatten()
    ),
    "flattened parts": lambda logits: F.cross_entropy(
        logits[:, 1:].flatten(0, 1), LABELS[:, 1:].flatten()
    ),
    "one row": lambda logits: F.cross_entropy(logits[1, :], LABELS[1]),
    "module": lambda logits: torch.nn.CrossEntropyLoss()(logits.view(10, -1), LABELS.view(-1)),
    "sum": lambda logits: F.cross_entropy(logits.view(10, 9), LABELS.view(-1), reduction="sum"),
    "smoothed": lambda logits: F.cross_entropy(
        logits.view(10, 9), LABELS.view(-1), label_smoothing=0.2
    ),
    "smoothed by less than nothing": lambda logits: F.cross_entropy(
        logits.view(10, 9), LABELS.view(-1), label_smoothing=-0.5
    ),
    "class weights": lambda logits: F.cross_entropy(
        logits.view(10, 9), LABELS.view(-1), torch.linspace(0.5, 2, 9)
    ),
    "scale": lambda logits: rows(logits * 0.25 / 3),
    "softcap": lambda logits: rows(softcap(logits)),
    "scaled softcap": lambda logits: rows(softcap(3.0 * logits).float()),
    "bare tanh": lambda logits: rows(logits.tanh() * 4),
}
REAL = {
    "added": lambda logits: rows(logits + torch.arange(9.0)),
    "written": written,
    "transposed": lambda logits: F.cross_entropy(logits.transpose(1, 2), LABELS),
    "probabilities": lambda logits: F.cross_entropy(logits.view(10, 9), torch.full((10, 9), 1 / 9)),
    "an array for the vocabulary": lambda logits: logits[
        torch.arange(2), :, numpy.array([3, 4])
    ].mean(),
    "arrays for the rest": lambda logits: logits[
        torch.arange(2), numpy.array([3, 4]), numpy.array([0, 8])
    ].mean(),
    "two tanh": lambda logits: rows(softcap(softcap(logits))),
    "vocabulary slice": lambda logits: rows(logits[..., :9]),
    "all in one row": lambda logits: F.cross_entropy(logits.flatten(), LABELS[0, 0]),
    "log softmax": lambda logits: -logits.log_softmax(-1)[..., 0].mean(),
    "tensor scale": lambda logits: rows(logits * torch.tensor(0.5)),
    "autograd function": lambda logits: rows(Doubled.apply(logits)),
    "autograd function that writes": lambda logits: rows(DoubledInPlace.apply(logits)),
    "reduce": lambda logits: F.cross_entropy(logits.view(10, 9), LABELS.view(-1), reduce=True),
}


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 5, 6), (9, 6), (9,)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def lazy(states, weight=None, bias=None):
    return lazy_logits(Source(states, weight, bias, states.dtype, (), LossCall(False)))


def step(loss, leaves):
    return loss.detach(), dict(enumerate(torch.autograd.grad(loss, leaves)))


@pytest.mark.filterwarnings("ignore:.*reduce.*deprecated")
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", [*FUSED, *REAL])
def test_loss_and_gradients_of_a_tail(name, dense, monkeypatch):
    tail = FUSED.get(name) or REAL[name]
    leaves = tensors()
    states, weight, bias = leaves
    expected = step(tail(F.linear(states, weight, bias)), leaves)
    with counted(monkeypatch) as calls:
        logits = lazy(F.linear(states, weight, bias)) if dense else lazy(*leaves)
        found = step(tail(logits), leaves)
    assert error(found[0], expected[0]) <= 1e-6
    for position, gradient in expected[1].items():
        assert error(found[1][position], gradient) <= 1e-5
    op = "cross_entropy" if dense else "fused_linear_cross_entropy"
    # Steps after logits that the head made are done, so the loss has no form to find for them.
    assert calls == ({op: 1} if name in FUSED or (dense and name == "two tanh") else {})


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("factor", [float("nan"), 1 + 9e-7, 1 - 2.0**-40, -1.0])
def test_every_factor_counts(factor, dense):
    leaves = [leaf.detach().double().requires_grad_() for leaf in tensors()]
    logits = lazy(F.linear(*leaves)) if dense else lazy(*leaves)
    found = step(rows(logits * factor), leaves)
    expected = step(rows(F.linear(*leaves) * factor), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("factor", "folded"),
    [(1.0, True), (-0.5, True), (1 / 16, True), (1 / 3, False), (1 / 32, False), (1000.0, False)],
)
def test_a_factor_in_float16_is_taken_only_where_it_rounds_nothing(
    factor, folded, dense, monkeypatch
):
    leaves = tensors(torch.float16)
    with torch.no_grad():
        leaves[0].mul_(100)  # a thousand times that is infinite
        leaves[1].mul_(0.01)
    with counted(monkeypatch) as calls:
        logits = lazy(F.linear(*leaves)) if dense else lazy(*leaves)
        found = step(rows(logits.float() * factor), leaves)
    assert bool(calls) == (folded or dense)
    expected = step(rows(F.linear(*leaves).float() * factor), leaves)
    assert error(found[0], expected[0]) <= 1e-3
    for position in (0, 2):
        assert error(found[1][position], expected[1][position]) <= 4e-3


def test_a_cap_whose_reciprocal_rounds_is_no_factor(monkeypatch):
    assert 1 / 49 * 49 != 1
    with counted(monkeypatch) as calls:
        rows(softcap(lazy(*tensors(torch.float16)).float(), 49.0))
    assert calls == {"fused_linear_cross_entropy": 1}


def test_real_logits_are_bitwise_those_of_the_head():
    states, weight, _ = tensors(torch.bfloat16)
    for tail in (lambda x: x.float(), lambda x: softcap(x / 7), lambda x: x[:, 1:].reshape(-1, 9)):
        assert torch.equal(tail(lazy(states, weight)) + 0, tail(F.linear(states, weight)))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_cast_to_eight_bits_rounds(dtype):
    states, weight, _ = tensors()

    def loss(logits):
        return F.cross_entropy(logits.to(dtype).float().view(10, 9), LABELS.view(10))

    assert torch.equal(loss(lazy(states, weight)), loss(F.linear(states, weight)))


def test_what_is_done_without_gradients_has_none():
    logits = lazy(*tensors())
    with torch.no_grad():
        scaled = logits * 2
    assert not scaled.requires_grad
    assert rows(logits).requires_grad


def test_metadata_does_not_compute():
    logits = lazy(*tensors())
    assert logits.shape == (2, 5, 9)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    assert (len(logits), logits.dim(), logits.size(-1), logits.numel()) == (2, 3, 9, 90)
    assert logits.requires_grad
    assert logits.is_floating_point()
    assert logits._lazy.computed is None


def test_wrong_labels_raise_as_in_torch():
    with pytest.raises(ValueError, match="batch_size"):
        F.cross_entropy(lazy(*tensors()).view(10, 9), LABELS[0])
