"""Logits of a training step are a tensor like any other to the code that gets them."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build, error
from torch.nn import functional as F
from transformers import LlamaForCausalLM

# What a tensor has, or a model's code may set; none of it is ours.
NAMES = ("block", "source", "form", "views", "node", "computed", "temperature")


class Used(LlamaForCausalLM):
    """Does something with its logits before their loss."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        found = self.use(logits)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return {"loss": loss, "found": found}


def found_by(use, patched):
    model = build(num_hidden_layers=1)
    model.__class__, model.use = Used, use
    if patched:
        patch(model)
    output = model(**{name: batch()[name] for name in ("input_ids", "labels")})
    output["loss"].backward()
    return output["found"], output["loss"].detach()


def test_attributes_stay_when_logits_are_computed():
    def use(logits):
        before = {name: getattr(logits, name, None) for name in NAMES}
        for name in NAMES:
            setattr(logits, name, name)
        view = logits.view(-1, logits.shape[-1])
        view.tag = "view"
        logits.exp()  # computes them
        return before, {name: getattr(logits, name) for name in NAMES}, view.tag

    (before, after, tag), loss = found_by(use, patched=True)
    assert not any(before.values())
    assert after == {name: name for name in NAMES}
    assert tag == "view"
    assert error(loss, found_by(use, patched=False)[1]) <= 1e-5


def test_the_names_of_a_tensor_are_a_tensors():
    def use(logits):
        return logits.real.shape, logits.mT.shape, logits.data.shape

    assert found_by(use, patched=True)[0] == found_by(use, patched=False)[0]


class Named(torch.Tensor):
    """A class of tensors of the user's."""


def as_a_class_of_the_users(logits):
    named = logits.as_subclass(Named)
    return type(named).__name__, named.sin().as_subclass(torch.Tensor)


def its_gradient_before_the_loss(logits):
    (gradient,) = torch.autograd.grad((logits * 2).sin().sum(), logits, retain_graph=True)
    return "gradient", gradient


@pytest.mark.parametrize("use", [as_a_class_of_the_users, its_gradient_before_the_loss])
def test_what_is_asked_of_logits_before_the_loss(use):
    (ours, expected) = (found_by(use, patched) for patched in (True, False))
    assert ours[0][0] == expected[0][0]
    assert error(ours[0][1], expected[0][1]) <= 1e-5
    assert error(ours[1], expected[1]) <= 1e-5


@pytest.mark.parametrize("view", [lambda logits: logits, lambda logits: logits[:, 1:]])
def test_code_that_reads_memory_and_asks_nobody_raises(view):
    def use(logits):
        with pytest.raises(RuntimeError, match="data pointer"):
            torch.utils.dlpack.to_dlpack(view(logits))
        values = view(logits) + 0
        assert torch.equal(torch.utils.dlpack.from_dlpack(view(logits).detach()), values)
        return values.detach()

    found, loss = found_by(use, True)
    expected, wanted = found_by(lambda logits: view(logits).detach().clone(), False)
    assert error(found, expected) <= 1e-5
    assert error(loss, wanted) <= 1e-5


class Twice(float):
    """A number that gives another when it is asked for a plain one."""

    def __float__(self):
        return 2 * super().__float__()


class Rounded(Used):
    """Makes its loss of what a function makes of its logits."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.use(self.lm_head(self.model(input_ids, **kwargs).last_hidden_state))
        return {"loss": F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))}


def rounded_to_16_bits(logits):
    return logits.to(torch.bfloat16).to(torch.float64)


def overflown(logits):
    return (logits * 1e6).half().to(torch.float64)


def scaled_by_a_number_of_the_users(logits):
    return logits * Twice(1.5)


def a_number_by_logits(logits):
    return torch.div(2.0, logits)


def a_number_times_logits(logits):
    return torch.mul(2.0, 3.0 * logits) / 2


def an_inverse(logits):
    return 2.0 / logits


def as_truths(logits):
    return logits + logits.to(False)


@pytest.mark.parametrize("use", [a_number_by_logits, a_number_times_logits, an_inverse, as_truths])
def test_a_number_stands_where_the_user_put_it(use):
    assert_same_loss(use)


def test_a_number_that_torch_does_not_take():
    with pytest.raises(OverflowError):
        found_by(lambda logits: logits * 2**70, patched=True)


@pytest.mark.parametrize("use", [rounded_to_16_bits, overflown, scaled_by_a_number_of_the_users])
def test_a_loss_is_made_of_what_the_user_rounded(use):
    assert_same_loss(use)


def assert_same_loss(use):
    losses = []
    for patched in (False, True):
        model = build(num_hidden_layers=1).double()
        model.__class__, model.use = Rounded, use
        if patched:
            patch(model, rms_norm=False, rope=False, swiglu=False)  # the same states
        losses.append(model(**{name: batch()[name] for name in ("input_ids", "labels")})["loss"])
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0, equal_nan=True)


def test_autocast_leaves_float64_alone():
    results = []
    for patched in (False, True):
        model = build(num_hidden_layers=1).double()
        if patched:
            patch(model)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        results.append((loss.detach(), model.lm_head.weight.grad))
    (loss, gradient), (found_loss, found_gradient) = results
    assert found_loss.dtype == loss.dtype
    assert error(found_loss, loss) <= 1e-6
    assert error(found_gradient, gradient) <= 1e-6
