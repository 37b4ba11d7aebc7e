"""What is made of lazy logits comes after them, as in eager mode, whatever is computed when."""

import gc
import random

import pytest
import torch
from liger_jit.patch.loss.call import LossCall
from liger_jit.patch.loss.lazy_logits import LazyLogits, lazy_logits
from liger_jit.patch.loss.lazy_source import Source
from tiny_models import counted, error
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

CLASSES, STEPS, PROGRAMS = 9, 8, 150

COPIES = {
    "shift": lambda x: x[..., :-1, :].contiguous(),
    "rows": lambda x: x[..., 1:, :].reshape(-1, CLASSES),
    "mask": lambda x: x[torch.arange(len(x)) != 1],
    "softcap": lambda x: torch.tanh(x / 3) * 3,
    "cast": lambda x: x.to(torch.float64),
}


def lazy(states, weight):
    return lazy_logits(Source(states, weight, None, states.dtype, (), LossCall(False)))


def leaves():
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 4, 6), (CLASSES, 6)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]


def loss_of(x):
    return F.cross_entropy(x.reshape(-1, CLASSES), torch.arange(x.numel() // CLASSES) % CLASSES)


class Hook:
    """Makes a gradient larger, and keeps it."""

    def __init__(self):
        self.seen = []

    def on(self, logits):
        logits.register_hook(self)

    def __call__(self, gradient):
        self.seen.append(gradient)
        return gradient * 3


def hooks_before_the_loss(logits, make, hook):
    copy = make(logits)
    hook.on(logits)
    return loss_of(copy)


def reads_before_the_loss_and_hooks_after_it(logits, make, hook):
    copy = make(logits)
    logits.detach().argmax(-1)
    loss = loss_of(copy)
    hook.on(logits)
    return loss


def hooks_and_drops(logits, make, hook):
    copies = [make(logits)]
    hook.on(logits)
    del logits
    return loss_of(copies.pop())


def reads_the_copy(logits, make, hook):
    copy = make(logits)
    auxiliary = copy.square().mean()
    hook.on(logits)
    return loss_of(copy) + auxiliary


def reads_a_copy_of_the_copy(logits, make, hook):
    copy = make(logits)
    auxiliary = (copy / 2).square().mean()
    hook.on(logits)
    hook.on(copy)
    return loss_of(copy) + auxiliary


def reads_the_copy_after_its_loss(logits, make, hook):
    """Another loss of it, alone in its backward."""
    copy = make(logits)
    loss_of(copy)
    auxiliary = copy.square().mean()
    assert logits.sum() != 0
    hook.on(logits)
    return auxiliary


def hooks_a_view(logits, make, hook):
    flat = logits.view(-1, CLASSES)
    copy = make(flat)
    hook.on(flat)
    return loss_of(copy)


def hooks_a_view_of_a_read_copy(logits, make, hook):
    flat = logits.view(-1, CLASSES)
    auxiliary = make(flat).square().mean()
    hook.on(flat)
    return loss_of(flat) + auxiliary


def hooks_a_view_of_a_view(logits, make, hook):
    flat = logits.view(-1, CLASSES)
    rest = flat[1:]
    hook.on(flat)
    return loss_of(make(rest))


ORDERS = [
    hooks_before_the_loss,
    reads_before_the_loss_and_hooks_after_it,
    hooks_and_drops,
    reads_the_copy,
    reads_a_copy_of_the_copy,
    reads_the_copy_after_its_loss,
    hooks_a_view,
    hooks_a_view_of_a_read_copy,
    hooks_a_view_of_a_view,
]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_hook_on_what_a_copy_was_made_of_runs(order, copy):
    def step(head):
        own, hook = leaves(), Hook()
        loss = order(head(*own), COPIES[copy], hook)
        return [loss.detach(), *torch.autograd.grad(loss, own), *hook.seen]

    for one, expected in zip(step(lazy), step(F.linear), strict=True):
        assert error(one, expected) <= 1e-5


def halves(gradient):
    return gradient / 2


def puts_another(gradient):
    return torch.ones(gradient.shape, dtype=gradient.dtype)


@pytest.mark.parametrize("hook", [halves, puts_another])
@pytest.mark.parametrize("copy_is_read", [False, True])
@pytest.mark.parametrize("copy", COPIES)
def test_the_gradient_of_what_a_copy_was_made_of_is_refused_after_its_loss(
    copy, copy_is_read, hook
):
    logits = lazy(*leaves())
    made = COPIES[copy](logits)
    loss = loss_of(made)
    assert logits.sum() != 0 and (not copy_is_read or made.sum() != 0)
    logits.register_hook(hook)
    with pytest.raises(RuntimeError, match="the gradient of logits.*skip_logits=False"):
        loss.backward()


def kept(tensors):
    chosen = random.Random(len(tensors))
    return [one for one in tensors if one is tensors[-1] or chosen.random() < 0.8]


def program(logits, seed):
    """Copies, views, hooks, reads and losses; no hook comes after a loss."""
    made = {
        **COPIES,
        "view": lambda x: x.view(-1, CLASSES) if x.is_contiguous() else x,
        "part": lambda x: x[..., :-1, :],
        "scale": lambda x: x * 0.5,
    }
    chosen, living, losses, hook = random.Random(seed), [logits], [], Hook()
    del logits
    for _ in range(STEPS):
        name = chosen.choice([*made, "hook", "hook", "read", "loss", "drop"])
        x = chosen.choice(living)
        if name in made and x.numel() > 4 * CLASSES:
            living.append(made[name](x))
        elif name == "hook" and not losses:
            hook.on(x)
        elif name == "read":
            losses.append(x.double().square().mean())
        elif name == "loss":
            losses.append(loss_of(x))
        elif name == "drop":
            living = kept(living)
        del x
    return [*losses, loss_of(living[-1])], hook.seen


@pytest.mark.parametrize("together", [False, True])
def test_random_programs_have_the_gradients_of_real_logits(together, monkeypatch):
    def step(head, seed):
        own = leaves()
        losses, seen = program(head(*own), seed)
        losses = [torch.stack([loss.double() for loss in losses]).sum()] if together else losses
        gradients = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses]
        return [loss.detach() for loss in losses], [*sum(gradients, ()), *seen]

    with counted(monkeypatch) as calls:
        for seed in range(PROGRAMS):
            for found, expected in zip(step(lazy, seed), step(F.linear, seed), strict=True):
                assert len(found) == len(expected), f"seed {seed}"
                for one, other in zip(found, expected, strict=True):
                    assert error(one, other) <= 1e-5, f"seed {seed}"
    assert calls["fused_linear_cross_entropy"] > PROGRAMS / 3, "few losses came from lazy logits"


def test_rows_that_a_copy_was_made_of_may_be_others_later():
    own, rows = leaves(), torch.tensor([0])
    logits = lazy(*own)
    copy = logits[rows]
    rows.fill_(1)
    assert torch.equal(logits[0], F.linear(*own)[0])
    assert torch.equal(copy[0], logits[0])


def test_a_loss_stays_fused_where_a_copy_was_read_before_it():
    logits = lazy(*leaves())
    auxiliary = logits.to(torch.float64).logsumexp(-1).square().mean()
    loss = loss_of(logits)
    assert logits._lazy.source.call.fused and isinstance(logits, LazyLogits)
    (auxiliary + loss).backward()


@pytest.mark.parametrize("copied", [False, True])
def test_a_backward_frees_what_late_logits_were_computed_in(copied):
    states, weight = leaves()
    states = states * 2
    logits = lazy(states, weight)
    read = torch.tanh(logits) if copied else logits
    loss = loss_of(read)
    auxiliary = read.sum()  # keeps nothing itself
    memory = StorageWeakRef(states.untyped_storage())
    del states
    gc.collect()
    (loss + auxiliary).backward(retain_graph=True)
    assert not memory.expired()
    if copied:
        del logits  # which is lazy, and may still be asked for
    (loss + auxiliary).backward()
    assert memory.expired()
    with pytest.raises(RuntimeError, match="graph of logits a second time.*retain_graph=True"):
        auxiliary.backward()
