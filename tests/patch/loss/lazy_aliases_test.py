"""Lazy logits alias as real ones do: random programs of views, copies and writes, run on both."""

import gc
import random
import weakref

import pytest
import torch
from liger_jit.patch.loss.call import LossCall
from liger_jit.patch.loss.lazy_logits import lazy_logits
from liger_jit.patch.loss.lazy_source import Source
from tiny_models import counted, error
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakTensorKeyDictionary

BATCH, TOKENS, WIDTH, CLASSES = 2, 4, 6, 9
STEPS, PROGRAMS = 12, 100
SHAPES = (BATCH, TOKENS, WIDTH), (CLASSES, WIDTH), (CLASSES,)


class Doubled(torch.autograd.Function):
    """Takes tensors past __torch_function__, as wrappers of distributed training do."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Through(torch.autograd.Function):
    """Takes the very tensor into C++ code, history and all."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def no_grad_view(x):
    with torch.no_grad():
        return x[1:]


def no_grad_write(x):
    with torch.no_grad():
        x.mul_(0.5)


def put(x, index, value):
    x[index] = value


def rows(x):
    return x.reshape(-1, CLASSES)


def loss_of(x):
    if not rows(x).shape[0]:
        raise ValueError("a mean of nothing")
    return F.cross_entropy(rows(x), torch.arange(len(rows(x))) % CLASSES)


# Each takes one tensor, and gives another or writes into it. All get the same random numbers.
VIEWS = {
    "next token": lambda x: x[..., :-1, :],
    "first": lambda x: x[0],
    "rest": lambda x: x[1:],
    "all": lambda x: x[...],
    "view rows": lambda x: x.view(-1, CLASSES),
    "view same": lambda x: x.view(x.shape),
    "reshape rows": rows,
    "flatten rows": lambda x: x.flatten(0, -2) if x.dim() > 1 else x.flatten(),
    "flatten same": lambda x: torch.flatten(x, 0, 0),
    "torch.reshape": lambda x: torch.reshape(x, (-1, CLASSES)),
    "contiguous": lambda x: x.contiguous(),
    "float": lambda x: x.float(),
    "to": lambda x: x.to(x.device),
    "classes": lambda x: x[..., 1:4],
    "transposed": lambda x: x.transpose(0, -1),
    "detached": lambda x: x.detach(),
    "without gradients": no_grad_view,
}
COPIES = {
    "double": lambda x: x.to(torch.float64),
    "half": lambda x: x.to(torch.bfloat16),
    "scaled": lambda x: x * 0.5,
    "divided": lambda x: 2 / 3 * x / 3,
    "tanh": lambda x: x.tanh(),
    "clone": lambda x: x.clone(),
    "mask": lambda x: x[torch.arange(x.shape[0]) != 0],
    "index": lambda x: x[torch.tensor([0, -1])],
    "number": lambda x: x[torch.tensor(0)],
    "function": Doubled.apply,
    "function of a view": Through.apply,
    "added": lambda x: x + 1,
}
WRITES = {
    "class": lambda x: put(x, (..., 3), -4.0),
    "row": lambda x: put(x, 0, 0.25),
    "scale": lambda x: x.mul_(0.5),
    "add": lambda x: x.add_(0.125),
    "part": lambda x: x[..., :2].zero_(),
    "masked": lambda x: x.masked_fill_(x > 1, 0.5),
    "out": lambda x: torch.tanh(torch.ones_like(x), out=x.detach()),
    "without gradients": no_grad_write,
}
READS = {
    "sum": lambda x: x.sum(),
    "loss": loss_of,
    "weakly": lambda x: weakref.finalize(x, int) and None,
    "form": lambda x: (x.shape, x.stride(), x.dtype, x.requires_grad, x.is_leaf, len(x)),
}
KINDS = {"view": VIEWS, "copy": COPIES, "write": WRITES, "read": READS}


def leaves(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]


def lazy(states, weight=None, bias=None):
    return lazy_logits(Source(states, weight, bias, states.dtype, (), LossCall(False)))


def program(seed):
    """(kind, name, number of the tensor it is applied to) of each step, and what dies when."""
    chosen = random.Random(seed)
    for _ in range(STEPS):
        kind = chosen.choices(["view", "copy", "write", "read"], [5, 2, 2, 3])[0]
        yield kind, chosen.choice(list(KINDS[kind])), chosen.random(), chosen.random() < 0.1


def attempt(function, x):
    try:
        return function(x), None
    except (RuntimeError, IndexError, ValueError, TypeError) as raised:
        return None, type(raised)


def run(logits, seed):
    """What a program leaves: tensors that live, what it read and raised, and its loss."""
    living, told, losses = [logits], [], []
    del logits
    for kind, name, place, drop in program(seed):
        position = int(place * len(living))
        result, raised = attempt(KINDS[kind][name], living[position])
        read = result if kind == "read" and name not in ("loss", "sum") else None
        told.append((kind, name, raised, read))
        if raised is None and kind in ("view", "copy"):
            living.append(result)
        elif raised is None and name in ("loss", "sum"):
            losses.append(result)
        del result
        if drop and len(living) > 1:
            del living[position]
    losses += [loss for x in living if (loss := attempt(loss_of, x)[0]) is not None]
    return living, told, losses


def relations(living):
    """Which tensors share memory, and where each lies in it."""
    places = [x.untyped_storage().data_ptr() for x in living]
    return [
        (places.index(place), strides(x), x.storage_offset(), x.dtype)
        for place, x in zip(places, living, strict=True)
    ]


def strides(x):
    """Those that matter."""
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]


def gradients(losses, own):
    losses = [loss.double() for loss in losses if loss.requires_grad]
    if not losses:
        return None, None
    total = torch.stack(losses).sum()
    return attempt(lambda x: torch.autograd.grad(x, own, allow_unused=True), total)


def assert_same(found, expected, tolerance, where):
    assert (found is None) == (expected is None), where
    if expected is not None:
        assert found.requires_grad == expected.requires_grad, where
        assert error(found.detach(), expected.detach()) <= tolerance, where


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_random_programs_leave_what_they_leave_on_real_logits(biased, dtype, monkeypatch):
    with counted(monkeypatch) as calls:
        for seed in range(PROGRAMS):
            assert_same_program(seed, leaves(dtype)[: 2 + biased])
    assert calls["fused_linear_cross_entropy"] > PROGRAMS / 6, "few losses came from lazy logits"


def assert_same_program(seed, own):
    expected, expected_told, expected_losses = run(F.linear(*own), seed)
    found, told, losses = run(lazy(*own), seed)
    names = [step[1] for step in told]
    tolerance = 2e-2 if own[0].dtype == torch.bfloat16 or "half" in names else 1e-5
    where = f"seed {seed}: {names}"
    assert told == expected_told, where
    for one, other in zip(losses, expected_losses, strict=True):
        assert_same(one, other, tolerance, where)
    known, wanted = gradients(losses, own), gradients(expected_losses, own)
    # A copy that is still lazy keeps no result of a tanh, so a write into that spoils nothing.
    assert known[1] in (None, wanted[1]), where
    if wanted[1] is None:
        for one, other in zip(known[0] or (), wanted[0] or (), strict=True):
            assert_same(one, other, tolerance, where)
    for one, other in zip(found, expected, strict=True):
        known, wanted = attempt(lambda x: x + 0, one), attempt(lambda x: x + 0, other)
        assert known[1] == wanted[1], where
        assert_same(known[0], wanted[0], tolerance, where)
        # What C++ code held when it was computed stays as it is: autograd goes by it.
        assert type(one) is torch.Tensor or one._lazy.is_alone, where
    assert relations(found) == relations(expected), where


@pytest.mark.parametrize("derive", ["next token", "view rows", "reshape rows", "float", "all"])
def test_a_write_is_seen_through_a_view_that_was_taken_before(derive):
    def loss(logits):
        shift = VIEWS[derive](logits)
        logits[..., 3] = -4.0
        return loss_of(shift)

    def through_the_view(logits):
        VIEWS[derive](logits)[..., 3] = -4.0
        return loss_of(logits)

    for tail in (loss, through_the_view):
        own = leaves()
        expected, found = tail(F.linear(*own)), tail(lazy(*own))
        assert error(found.detach(), expected.detach()) <= 1e-6
        wanted = torch.autograd.grad(expected, own)
        for one, other in zip(torch.autograd.grad(found, own), wanted, strict=True):
            assert error(one, other) <= 1e-5


def test_a_copy_that_was_made_before_a_write_does_not_see_it():
    own = leaves()
    logits = lazy(*own)
    scaled = logits * 2
    logits.zero_()
    assert torch.equal(scaled + 0, F.linear(*own) * 2)


def sizes_that_change(take):
    def made(logits):
        sizes = [BATCH * TOKENS, CLASSES]
        taken = take(logits, sizes)
        sizes[:] = [BATCH, TOKENS, CLASSES]
        return taken

    return made


def an_end_that_changes(logits):
    end = torch.tensor(1)
    taken = logits[:, :end]
    end.add_(2)
    return taken


def rows_that_change(logits):
    rows = torch.tensor([0, 1])
    taken = logits[rows]
    rows.fill_(0)
    return taken


@pytest.mark.parametrize(
    "make",
    [
        sizes_that_change(torch.Tensor.view),
        sizes_that_change(torch.Tensor.reshape),
        sizes_that_change(torch.reshape),
        an_end_that_changes,
        rows_that_change,
    ],
)
def test_what_a_view_or_a_copy_was_made_with_is_that_of_then(make):
    own = leaves()
    taken, expected = make(lazy(*own)), make(F.linear(*own))
    assert taken.shape == expected.shape
    assert torch.equal(taken + 0, expected)
    assert taken.shape == expected.shape


def test_a_lazy_tensor_that_somebody_refers_to_weakly_still_aliases():
    own = leaves()
    logits = lazy(*own)
    shift, reference = logits[..., :-1, :], weakref.ref(logits)
    logits[..., 3] = -4.0
    expected = F.linear(*own)
    expected[..., 3] = -4.0
    assert torch.equal(shift + 0, expected[..., :-1, :])
    assert torch.equal(reference() + 0, expected)
    shift.zero_()
    assert not (logits[..., :-1, :] != 0).any()
    assert logits._version == 2


def scaled_in_place(logits):
    logits.mul_(1.5)


def covered_in_part(logits):
    rows(logits)[:, 3] = -1e4


def with_a_hook(logits):
    logits.register_hook(lambda gradient: gradient * 10)


@pytest.mark.parametrize("change", [scaled_in_place, covered_in_part, with_a_hook])
@pytest.mark.parametrize("dense", [False, True])
def test_so_it_has_the_history_of_what_is_done_to_it(change, dense):
    gradients, kept = [], WeakTensorKeyDictionary()
    for make in (F.linear, lambda *own: lazy(F.linear(*own)) if dense else lazy(*own)):
        own = leaves()
        logits = make(*own)
        kept[logits] = reference = weakref.ref(logits)
        change(logits)
        loss = loss_of(Through.apply(logits))
        assert reference() is logits
        gradients.append(torch.autograd.grad(loss, own))
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert error(found, expected) <= 1e-5


def hooked(logits):
    logits.register_hook(lambda gradient: 3 * gradient)
    no_grad_write(logits)
    return logits


@pytest.mark.parametrize("dense", [False, True])
def test_logits_of_a_head_are_no_view(dense):
    """A written view gets another node, and the hooks of the one before never run. Without a bias:
    torch 2.11 makes a view of the product and the bias."""

    def gradients_of(make):
        own = leaves()[:2]
        return torch.autograd.grad(loss_of(hooked(make(*own))), own)

    def made(*own):
        return lazy(F.linear(*own)) if dense else lazy(*own)

    for one, other in zip(gradients_of(made), gradients_of(F.linear), strict=True):
        assert error(one, other) <= 1e-5
    logits = made(*leaves()[:2])
    assert not (logits._is_view() or logits.is_leaf)
    assert logits.detach_().is_leaf
    with torch.no_grad():
        logits = made(*leaves()[:2])
    logits += leaves()[2]
    assert logits.requires_grad


@pytest.mark.parametrize("take", ["contiguous", "reshape rows", "mask", "index"])
def test_a_copy_of_computed_logits_is_one(take):
    logits = lazy(F.linear(*leaves()))
    copy = {**VIEWS, **COPIES}[take](logits[..., :-1, :])
    assert copy.view(-1, CLASSES).sum() != 0
    copy.zero_()
    assert copy.is_contiguous()
    assert torch.equal(logits + 0, F.linear(*leaves()))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_head_inside_a_checkpoint_has_its_gradients(use_reentrant):
    def step(head):
        own = leaves()
        logits = checkpoint(head, *own, use_reentrant=use_reentrant)
        loss = loss_of(logits)
        return (
            [loss.detach(), *torch.autograd.grad(loss, own)]
            if not use_reentrant
            else backward(loss, own)
        )

    def backward(loss, own):
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in own)]

    for one, other in zip(step(lazy), step(F.linear), strict=True):
        assert error(one, other) <= 1e-5


@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_logits_come_from_may_not_be_written_before_they_are_made(position):
    own = leaves()
    logits = lazy(*own)
    with torch.no_grad():
        own[position].add_(1)
    name = ("input", "weight", "bias")[position]
    with pytest.raises(RuntimeError, match=f"the head's {name}"):
        logits.sum()
    with pytest.raises(RuntimeError, match=f"the head's {name}"):
        F.cross_entropy(rows(logits), torch.zeros(8, dtype=torch.int64))


def test_keywords_and_options_that_no_fold_knows_are_those_of_torch():
    own = leaves()
    real, buffer = F.linear(*own).detach(), torch.empty(BATCH, TOKENS, CLASSES)
    with torch.no_grad():
        assert torch.equal(torch.tanh(input=lazy(*own)), real.tanh())
        assert torch.tanh(lazy(*own), out=buffer) is buffer
        assert torch.equal(buffer, real.tanh())
        assert torch.equal(torch.reshape(input=lazy(*own), shape=(-1, 9)), real.view(-1, 9))
        assert torch.equal(lazy(*own).contiguous(memory_format=torch.contiguous_format), real)
        assert torch.equal(torch.mul(input=lazy(*own), other=2), real * 2)
        assert torch.numel(input=lazy(*own)) == real.numel()


@pytest.mark.parametrize("rest", [(slice(None),), (slice(None), slice(None))])
def test_more_indices_than_dimensions_are_refused(rest):
    own = leaves()
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    for logits in (lazy(*own), F.linear(*own)):
        if len(rest) == 1:
            assert logits[(mask, *rest)].shape == (BATCH * TOKENS, CLASSES)
        else:
            with pytest.raises(IndexError, match="too many indices"):
                logits[(mask, *rest)]


def test_lazy_logits_leave_no_cycle_that_holds_the_states():
    own = leaves()
    states = own[0] * 1
    reference = weakref.ref(states)
    logits = lazy(states, *own[1:])
    shift = logits[..., :-1, :]
    gc.disable()
    try:
        del states, logits, shift
        assert reference() is None
    finally:
        gc.enable()
