"""A hook on the gradient of logits runs or is refused: a loss made from states has no logits."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build, error
from torch.nn import functional as F
from transformers import LlamaForCausalLM


class Hooked(LlamaForCausalLM):
    """Puts a hook on its logits, before its loss or after it."""

    before = True

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        if self.before:
            self.hook(logits)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        if not self.before:
            self.hook(logits)
        return {"loss": loss}


def scaled(logits):
    logits.register_hook(lambda gradient: 3 * gradient)


def several(logits):
    torch.autograd.graph.register_multi_grad_hook((logits,), lambda gradients: None)


def kept(logits):
    logits.retain_grad()


def gradient_of_the_head(hook, before, patched, **flags):
    model = build(num_hidden_layers=1)
    model.__class__, model.before, model.hook = Hooked, before, hook
    if patched:
        patch(model, **flags)
    inputs = {name: batch()[name] for name in ("input_ids", "labels")}
    model(**inputs)["loss"].backward()
    return model.lm_head.weight.grad


@pytest.mark.parametrize("hook", [scaled, several, kept])
def test_a_hook_before_the_loss_runs(hook):
    expected = gradient_of_the_head(hook, True, patched=False)
    assert error(gradient_of_the_head(hook, True, patched=True), expected) <= 1e-4


@pytest.mark.parametrize("hook", [scaled, several, kept])
def test_a_hook_after_the_loss_is_refused(hook):
    with pytest.raises(RuntimeError, match="skip_logits=False"):
        gradient_of_the_head(hook, False, patched=True)


@pytest.mark.parametrize("hook", [scaled, several, kept])
def test_a_refusal_says_what_helps_where_the_head_made_logits(hook):
    flags = {"fused_linear_cross_entropy": False, "cross_entropy": True}
    with pytest.raises(RuntimeError, match="past this tensor.*cross_entropy=False"):
        gradient_of_the_head(hook, False, patched=True, **flags)
    flags["cross_entropy"] = False
    expected = gradient_of_the_head(hook, False, patched=False)
    assert error(gradient_of_the_head(hook, False, patched=True, **flags), expected) <= 1e-4


def test_looking_at_logits_after_the_loss_is_no_hook():
    def look(logits):
        assert logits.grad_fn is not None
        assert "grad_fn" in repr(logits)

    gradient_of_the_head(look, False, patched=True)


class Measured(LlamaForCausalLM):
    """Looks at its logits in a way of its own before its loss."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids, **kwargs).last_hidden_state)
        self.look(logits)
        return {"loss": F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))}


def in_inference_mode(logits):
    with torch.inference_mode():
        logits.argmax(-1)


def on_another_stream(logits):
    if logits.is_cuda:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(10_000_000)
            logits.argmax(-1)


@pytest.mark.parametrize("look", [in_inference_mode, on_another_stream])
def test_logits_are_computed_as_at_the_head(device, look):
    results = []
    for patched in (False, True):
        model = build(num_hidden_layers=1).to(device)
        model.__class__, model.look = Measured, look
        if patched:
            patch(model)
        inputs = {name: batch()[name].to(device) for name in ("input_ids", "labels")}
        loss = model(**inputs)["loss"]
        loss.backward()
        results.append((loss.detach(), model.lm_head.weight.grad))
    for found, expected in zip(results[1], results[0], strict=True):
        assert error(found, expected) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_step_are_on_the_way_to_a_loss_that_was_made_of_logits(dtype):
    def step():
        model.zero_grad()
        output = model(**batch())
        output.logits.register_hook(lambda gradient: gradient * 2)
        output.logits.retain_grad()
        output.loss.backward()
        return output.logits.grad, model.lm_head.weight.grad.clone()

    model = build(num_hidden_layers=1).to(dtype)
    expected = step()
    patch(model, fused_linear_cross_entropy=False, cross_entropy=True)
    found = step()
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for one, wanted in zip(found, expected):
        assert error(one, wanted) <= bound
