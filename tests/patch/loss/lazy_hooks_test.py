"""A hook on the gradient of logits runs or is refused: a loss made from states has no logits."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import batch, build, error
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast


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


OF_LOGITS = {"fused_linear_cross_entropy": False, "cross_entropy": True}


@pytest.mark.parametrize("hook", [scaled, several, kept])
def test_a_hook_after_a_loss_of_logits_runs(hook):
    expected = gradient_of_the_head(hook, False, patched=False)
    assert error(gradient_of_the_head(hook, False, patched=True, **OF_LOGITS), expected) <= 1e-4


@pytest.mark.parametrize("hook", [scaled, several, kept])
def test_a_refusal_says_what_helps_where_the_head_made_logits(hook):
    """A view that its loss is not known to be made of."""

    def hook_on_a_view(logits):
        hook(logits[..., :-1, :])

    with pytest.raises(RuntimeError, match="past this tensor.*cross_entropy=False"):
        gradient_of_the_head(hook_on_a_view, False, patched=True, **OF_LOGITS)


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


class Cast(LlamaForCausalLM):
    """Its logits are a copy in float32 of what the head made, and so is what it returns."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids).last_hidden_state).float()
        loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def cast():
    model = build(num_hidden_layers=1)
    model.__class__ = Cast
    return model


# What models do between the head and the loss.
BETWEEN = {
    "nothing": lambda: build(num_hidden_layers=1),
    "division": lambda: build("Granite", num_hidden_layers=1, logits_scaling=6.0),
    "scale": lambda: build("Cohere", num_hidden_layers=1, logit_scale=0.3),
    "softcap": lambda: build("Gemma2", num_hidden_layers=1, final_logit_softcapping=0.5),
    "cast": cast,
}


def hooked_and_kept(model, output):
    output.logits.register_hook(lambda gradient: gradient * 2)
    output.logits.retain_grad()
    output.loss.backward()
    return output.logits.grad, model.get_output_embeddings().weight.grad.clone()


def asked_for(model, output):
    return torch.autograd.grad(output.loss, output.logits)


@pytest.mark.parametrize("ask", [hooked_and_kept, asked_for])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("between", BETWEEN)
def test_logits_of_a_step_are_on_the_way_to_a_loss_that_was_made_of_logits(between, dtype, ask):
    def step():
        model.zero_grad()
        return ask(model, model(**batch()))

    model = BETWEEN[between]().to(dtype)
    expected = step()
    patch(model, **OF_LOGITS)
    found = step()
    bound = 2e-5 if dtype == torch.float32 else 1e-2
    for one, wanted in zip(found, expected, strict=True):
        assert error(one, wanted) <= bound


@pytest.mark.parametrize("between", BETWEEN)
def test_a_loss_of_logits_is_as_exact_as_eager(between):
    def step(dtype):
        model = BETWEEN[between]().to(torch.bfloat16).to(dtype)
        if patched:
            patch(model, **OF_LOGITS, rms_norm=False, layer_norm=False, swiglu=False, geglu=False)
        loss = model(**batch()).loss
        loss.backward()
        return loss.detach(), model.get_output_embeddings().weight.grad

    patched = False
    exact, eager = step(torch.float64), step(torch.bfloat16)
    patched = True
    for one, plain, wanted in zip(step(torch.bfloat16), eager, exact, strict=True):
        assert error(one, wanted) <= 1.05 * error(plain, wanted) + 1e-6


def test_the_copy_in_float32_that_transformers_own_loss_makes_is_not_made():
    """The loss keeps what it reads for its backward."""

    def kept():
        found = []
        with torch.autograd.graph.saved_tensors_hooks(found.append, lambda one: one):
            model(**batch())
        return [one for one in found if one.shape[-1:] == (97,) and one.dtype == torch.float32]

    model = build(num_hidden_layers=1).to(torch.bfloat16)
    assert kept()
    patch(model, **OF_LOGITS)
    assert not kept()
