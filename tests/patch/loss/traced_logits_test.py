"""A traced loss takes the states in place of the logits only where nothing happened in between."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build
from transformers import LlamaForCausalLM


def plain(model, states, loss):
    return loss(model.lm_head(states))


def without_gradients(model, states, loss):
    with torch.no_grad():
        logits = model.lm_head(states)
    return loss(logits) + states.mean()


def with_a_hook(model, states, loss):
    logits = model.lm_head(states)
    logits.register_hook(lambda gradient: 3 * gradient)
    return loss(logits)


def with_a_hook_of_the_head(model, states, loss):
    def put(module, inputs, output):
        output.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))

    handle = model.lm_head.register_forward_hook(put)
    logits = model.lm_head(states)
    handle.remove()
    return loss(logits)


def with_states_that_go_on(model, states, loss):
    model.lm_head.weight.requires_grad_(False)  # else torch refuses the write
    states = states * 1
    logits = model.lm_head(states)
    states.mul_(0.5)
    return loss(logits) + states.pow(2).mean()


def with_states_that_are_detached(model, states, loss):
    logits = model.lm_head(states)
    states.detach_()
    return loss(logits)


def with_another_use(model, states, loss):
    logits = model.lm_head(states)
    return loss(logits) + logits.pow(2).mean()


def with_a_head_in_autocast(model, states, loss):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(states)
    return loss(logits)


def with_a_loss_in_autocast(model, states, loss):
    logits = model.lm_head(states)
    with torch.autocast("cpu", torch.bfloat16):
        return loss(logits)


class Between(LlamaForCausalLM):
    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids, **kwargs).last_hidden_state
        return {
            "loss": self.use(
                self,
                states,
                lambda logits: self.loss_function(logits, labels, self.config.vocab_size),
            )
        }


WAYS = [
    plain,
    without_gradients,
    with_a_hook,
    with_a_hook_of_the_head,
    with_states_that_go_on,
    with_states_that_are_detached,
    with_another_use,
    with_a_head_in_autocast,
    with_a_loss_in_autocast,
]


@pytest.mark.parametrize("use", WAYS)
def test_what_happens_between_head_and_loss_counts(use):
    results = []
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        model.__class__, model.use = Between, use
        if patched:
            patch(model)
        torch._dynamo.reset()
        step = torch.compile(model, backend="aot_eager")
        loss = step(**{name: batch()[name] for name in ("input_ids", "labels")})["loss"]
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (expected_loss, expected), found = results
    trained = {name: one for name, one in expected.items() if one is not None}
    assert {name for name, one in found[1].items() if one is not None} == set(trained)
    assert_same_step(
        (found[0], {name: found[1][name] for name in trained}), (expected_loss, trained)
    )


@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_a_loss_in_float64_is_rounded_as_transformers_rounds_it(flags):
    model = build(num_hidden_layers=1, dtype=torch.float64)
    plain = model(**batch()).loss
    patch(model, **flags)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for loss in (model(**batch()).loss, compiled(**batch()).loss):
        assert loss.dtype == plain.dtype == torch.float32
        torch.testing.assert_close(loss, plain)
