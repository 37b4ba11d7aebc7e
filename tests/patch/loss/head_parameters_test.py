"""The head's parameters are read when, and as often as, its own forward reads them."""

import copy

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, error, loss_and_gradients, steps_of
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_a_parametrised_weight_is_evaluated_once_a_step(flags, compiles):
    results = []
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        torch.manual_seed(0)
        nn.utils.parametrizations.spectral_norm(model.lm_head)  # each reading is an iteration
        if patched:
            patch(model, **flags)
        torch._dynamo.reset()
        step = torch.compile(model, backend="eager") if compiles else model
        losses = torch.stack([step(**batch()).loss.detach() for _ in range(2)])
        results.append((losses, model.lm_head.parametrizations.weight[0]._u))
    (losses, vector), (found_losses, found_vector) = results
    assert error(found_losses, losses) <= 1e-5
    assert torch.equal(found_vector, vector)


class Frozen(LlamaForCausalLM):
    """Its head is trained by a loss, or not, as it was when it made the logits."""

    trained = False

    def forward(self, input_ids, labels=None, **kwargs):
        states, weight = self.model(input_ids, **kwargs).last_hidden_state, self.lm_head.weight
        weight.requires_grad_(self.trained)
        logits = self.lm_head(states)
        weight.requires_grad_(not self.trained)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        weight.requires_grad_(True)
        return {"loss": loss}


@pytest.mark.parametrize("trained", [False, True])
def test_a_head_is_trained_as_it_was_when_it_made_the_logits(trained):
    plain, found = steps_of(Frozen, trained=trained)
    assert ("lm_head.weight" in plain[1]) == trained
    assert ("lm_head.weight" in found[1]) == trained
    if trained:
        assert_same_step(found, plain)
    else:
        assert error(found[0], plain[0]) <= 1e-5


def detached_before_the_loss(states, logits_of, loss_of):
    logits = logits_of(states)
    states.detach_()
    return loss_of(logits)


def detached_after_the_loss(states, logits_of, loss_of):
    logits = logits_of(states)
    loss = loss_of(logits)
    states.detach_()
    return loss + logits.pow(2).mean()


def trained_after_the_head(states, logits_of, loss_of):
    states = states.detach()
    logits = logits_of(states)
    states.requires_grad_()
    loss = loss_of(logits)
    assert states.grad is None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, states, retain_graph=True, allow_unused=True)
        assert gradient is None
    return loss


class OfStates(LlamaForCausalLM):
    """Makes its loss of hidden states by a function that changes what is trained."""

    def forward(self, input_ids, labels=None, **kwargs):
        def loss_of(logits):
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

        states = self.model(input_ids, **kwargs).last_hidden_state
        return {"loss": self.path(states, self.lm_head, loss_of)}


@pytest.mark.parametrize(
    "path", [detached_before_the_loss, detached_after_the_loss, trained_after_the_head]
)
def test_states_are_trained_as_they_were_when_the_head_was_called(path):
    plain, found = steps_of(OfStates, path=path)
    assert found[1].keys() == plain[1].keys() != set()
    assert error(found[0], plain[0]) <= 1e-5
    assert all(error(found[1][name], gradient) <= 1e-4 for name, gradient in plain[1].items())


class Normalised(nn.Linear):
    """Stands in for the weight that it holds."""

    @property
    def weight(self):
        return 3 * F.normalize(self._parameters["weight"], dim=-1)


class LooksUp(nn.Linear):
    def __getattr__(self, name):
        found = super().__getattr__(name)
        return 3 * found if name == "weight" else found


class LooksUpFirst(nn.Linear):
    def __getattribute__(self, name):
        return (
            3 * self._parameters["weight"] if name == "weight" else super().__getattribute__(name)
        )


@pytest.mark.parametrize("kind", [Normalised, LooksUp, LooksUpFirst])
@pytest.mark.parametrize("before", [True, False])
def test_a_class_that_stands_in_for_a_parameter_is_asked_for_it(before, kind):
    losses = []
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        if before:
            model.lm_head.__class__ = kind
        if patched:
            patch(model)
        model.lm_head.__class__ = kind
        losses.append(model(**batch()).loss.detach())
    assert error(losses[1], losses[0]) <= 1e-5


class Doubled(LlamaRMSNorm):
    @property
    def weight(self):
        return 2 * self._parameters["weight"]


class DoubledByLookup(LlamaRMSNorm):
    def __getattr__(self, name):
        found = super().__getattr__(name)
        return 2 * found if name == "weight" else found


@pytest.mark.parametrize("kind", [Doubled, DoubledByLookup])
@pytest.mark.parametrize("before", [True, False])
def test_so_is_the_class_of_a_norm(before, kind):
    losses = []
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        if before:
            model.model.norm.__class__ = kind
        if patched:
            patch(model)
        model.model.norm.__class__ = kind
        losses.append(model(**batch()).loss.detach())
    assert error(losses[1], losses[0]) <= 1e-5


@pytest.mark.parametrize("before", [True, False])
def test_so_is_what_stands_over_the_parameter_of_a_norm(before):
    model = build(num_hidden_layers=1)

    def change():
        model.model.norm.__dict__["weight"] = torch.tensor(3.0)

    if before:
        change()
    handle = patch(model)
    change()
    found = model(**batch()).loss.detach()
    handle.unpatch()
    assert error(found, model(**batch()).loss.detach()) <= 1e-5


def test_a_sparse_head_makes_its_own_logits():
    model = build()
    handle = patch(model)
    sparse = model.lm_head.weight.detach().to_sparse_csr()
    model.lm_head.weight = nn.Parameter(sparse, requires_grad=False)
    found = loss_and_gradients(model)
    handle.unpatch()
    assert_same_step(found, loss_and_gradients(model))


@pytest.mark.parametrize("shape", [(), (1,), (1, 97)])
def test_a_bias_that_is_broadcast_is_the_heads_own(shape):
    model = build(vocab_size=97)
    handle = patch(model)
    model.lm_head.bias = nn.Parameter(torch.rand(shape))
    found = loss_and_gradients(model)
    handle.unpatch()
    assert_same_step(found, loss_and_gradients(model))


def a_wider_weight(model):
    model.lm_head.weight = nn.Parameter(torch.ones(97, 33))


def a_weight_in_float64(model):
    model.lm_head.to(torch.float64)


def a_bias_in_bfloat16(model):
    model.lm_head.bias = nn.Parameter(torch.ones(model.config.vocab_size, dtype=torch.bfloat16))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("change", [a_wider_weight, a_weight_in_float64, a_bias_in_bfloat16])
def test_a_head_that_does_not_fit_is_torchs_own(change, compiled):
    plain = build(num_hidden_layers=1)
    model = copy.deepcopy(plain)
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="eager") if compiled else model
    assert error(step(**batch()).loss, plain(**batch()).loss) <= 1e-5
    change(model)
    change(plain)
    # torch.compile has torch's error in one of its own.
    with pytest.raises(RuntimeError, match="dtype|shapes|reduction"):
        step(**batch())
    with torch.autocast("cpu", torch.bfloat16):
        if change is a_bias_in_bfloat16:
            assert error(step(**batch()).loss, plain(**batch()).loss) <= 1e-2
