"""Logits that are read after a fused loss: to read their gradient raises, all else is eager's."""

import gc
import weakref

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.loss.call import LossCall
from liger_jit.patch.loss.lazy_logits import lazy_logits
from liger_jit.patch.loss.lazy_source import Source
from tiny_models import assert_same_step, batch, build, error
from torch._dynamo import compiled_autograd
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

REFUSED = pytest.raises(RuntimeError, match="the gradient of logits.*skip_logits=False")


class Counting(LlamaForCausalLM):
    """Counts what it gets right once its loss is made."""

    def forward(self, input_ids=None, labels=None, **kwargs):
        output = super().forward(input_ids=input_ids, labels=labels, **kwargs)
        self.right = (output.logits.argmax(-1) == labels).sum()
        self.after(output)
        return output

    @staticmethod
    def after(output):
        pass


class Keeping(LlamaForCausalLM):
    """Its loss function keeps the logits."""

    def keeping_loss(self, logits, **given):
        self.kept = logits
        return ForCausalLMLoss(logits, **given)


class Adding(Counting):
    """Has an auxiliary loss of its logits."""

    @staticmethod
    def after(output):
        output.loss = output.loss + 0.1 * output.logits.float().logsumexp(-1).square().mean()


class Gathering(Counting):
    """Has an auxiliary loss whose gradient is sparse."""

    @staticmethod
    def after(output):
        tokens = output.logits.argmax(-1, keepdim=True)
        output.loss = output.loss + output.logits.gather(-1, tokens, sparse_grad=True).mean()


def made(kind):
    model = build(num_hidden_layers=1)
    model.__class__ = kind
    patch(model)
    return model


def looks(loss, logits):
    logits.register_hook(lambda gradient: print(gradient.norm()))
    loss.backward()


def halves(loss, logits):
    logits.register_hook(lambda gradient: gradient / 2)
    loss.backward()


def puts_another(loss, logits):
    logits.register_hook(lambda gradient: torch.ones(gradient.shape))
    loss.backward()


def looks_at_several(loss, logits):
    hook = torch.autograd.graph.register_multi_grad_hook
    hook((logits,), lambda gradients: gradients[0].norm())
    loss.backward()


def keeps(loss, logits):
    logits.retain_grad()
    loss.backward()


def asks(loss, logits):
    torch.autograd.grad(loss, logits)[0].sum()


def may_do_without(loss, logits):
    torch.autograd.grad(loss, logits, allow_unused=True)[0].sum()


def is_an_input(loss, logits):
    loss.backward(inputs=[logits])


ASK = [looks, halves, puts_another, looks_at_several, keeps, asks, may_do_without, is_an_input]


@pytest.mark.parametrize("kind", [Counting, Keeping, Adding])
@pytest.mark.parametrize("ask", ASK)
def test_who_asks_for_the_gradient_is_refused(ask, kind):
    model = made(kind)
    if kind is Keeping:
        model.loss_function = model.keeping_loss
    output = model(**batch())
    with REFUSED:
        ask(output.loss, model.kept if kind is Keeping else output.logits)


def test_a_hook_stays_where_its_logits_are_gone():
    model = made(Counting)
    model.after = lambda output: output.logits.register_hook(lambda gradient: gradient / 2)
    loss = model(**batch())[0]
    gc.collect()
    with REFUSED:
        loss.backward()


def step(model):
    """With hooks that let the gradient be."""
    seen = []
    model.zero_grad()
    output = model(**batch())
    output.logits.register_hook(seen.append)
    output.logits.register_hook(lambda gradient: gradient)
    output.loss.backward()
    assert len(seen) == 1 and seen[0].shape == output.logits.shape
    gradients = {name: one.grad.clone() for name, one in model.named_parameters()}
    return output.loss.detach(), gradients


@pytest.mark.parametrize("kind", [Counting, Adding, Gathering])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_all_losses(kind, dtype):
    model = build(num_hidden_layers=1).to(dtype)
    model.__class__ = kind
    expected = step(model)
    patch(model)
    assert_same_step(step(model), expected, 2e-5 if dtype == torch.float32 else 2e-2)


def test_an_auxiliary_loss_alone_has_its_gradients():
    def gradients():
        logits = model(**batch()).logits
        wanted = [*model.parameters()]
        first = torch.autograd.grad(logits.square().mean(), wanted, create_graph=True)
        return *first, *torch.autograd.grad(first[-1].square().sum(), wanted, allow_unused=True)

    model = build(num_hidden_layers=1)
    model.__class__ = Counting
    expected = gradients()
    # A second derivative of operators of ours is refused.
    patch(model, rms_norm=False, swiglu=False, rope=False)
    for one, wanted in zip(gradients(), expected, strict=True):
        assert (one is None) == (wanted is None)
        assert one is None or error(one, wanted) <= 1e-4


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Counting, Adding])
def test_torch_may_look_for_nan(kind):
    model = made(kind)
    with torch.autograd.detect_anomaly(check_nan=True):
        model(**batch()).loss.backward()


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Counting, Adding])
def test_compiled_autograd_has_the_same_gradients(kind):
    def gradient():
        model.zero_grad()
        model(**batch()).loss.backward()
        return model.lm_head.weight.grad.clone()

    model = made(kind)
    expected = gradient()
    torch._dynamo.reset()
    with compiled_autograd._enable(torch.compile(backend="eager")):
        assert error(gradient(), expected) <= 1e-5


def lazy(states, weight):
    return lazy_logits(Source(states, weight, None, states.dtype, (), LossCall(False)))


def test_a_hook_on_what_logits_come_from_runs_once():
    def gradient(head):
        start, weight = torch.linspace(-1, 1, 32).view(4, 8).requires_grad_(), torch.ones(9, 8)
        states = start * 2
        states.register_hook(lambda gradient: gradient * 3)
        logits = head(states, weight)
        loss = F.cross_entropy(logits, torch.arange(4))
        return torch.autograd.grad(loss + logits.square().sum(), start)[0]

    assert error(gradient(lazy), gradient(F.linear)) <= 1e-5


def test_a_loss_keeps_nothing_for_logits_that_nobody_reads():
    states, weight = torch.randn(4, 8, requires_grad=True) * 2, torch.randn(9, 8)
    logits = lazy(states, weight)
    loss = F.cross_entropy(logits, torch.arange(4))
    references = [weakref.ref(one) for one in (logits, logits._lazy.block, logits._lazy.source)]
    gc.disable()
    try:
        del logits
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()
    loss.backward()


@pytest.mark.parametrize("dense", [False, True])
def test_logits_that_were_read_are_freed_at_once(dense):
    states, weight = torch.randn(4, 8, requires_grad=True) * 2, torch.randn(9, 8)
    logits = lazy(F.linear(states, weight), None) if dense else lazy(states, weight)
    loss = F.cross_entropy(logits, torch.arange(4))
    block = weakref.ref(logits._lazy.block)
    assert logits.sum().requires_grad
    assert type(logits) is torch.Tensor
    gc.disable()
    try:
        assert block() is None
        memory = StorageWeakRef(logits.untyped_storage())
        del logits
        assert memory.expired()
    finally:
        gc.enable()
    loss.backward()
