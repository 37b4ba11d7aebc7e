"""A traced loss takes the states in place of the logits only where nothing happened in between."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, steps_of
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
    plain, found = steps_of(Between, call=compiled, use=use)
    assert_same_step(found, plain)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager")


@pytest.mark.parametrize(
    "flags", [{}, {"cross_entropy": True, "fused_linear_cross_entropy": False}]
)
def test_a_loss_in_float64_is_rounded_as_transformers_rounds_it(flags):
    model = build(num_hidden_layers=1, dtype=torch.float64)
    plain = model(**batch()).loss
    patch(model, **flags)
    for loss in (model(**batch()).loss, compiled(model)(**batch()).loss):
        assert loss.dtype == plain.dtype == torch.float32
        torch.testing.assert_close(loss, plain)
