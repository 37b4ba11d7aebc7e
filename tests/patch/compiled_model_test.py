"""Patched models under torch.compile(fullgraph=True): no break, the right loss, our operators."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, counted, error, loss_and_gradients
from tiny_models import build as build_layers
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput


def build(family="Llama", **settings):
    """One layer: what is traced is the same for each of them."""
    return build_layers(family, num_hidden_layers=1, **settings)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("family", ["Llama", "Phi3"])
def test_fused_training_step(family, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model, **batch(), num_items_in_batch=9)
    patch(model)
    inputs = batch() | {"num_items_in_batch": 9}
    step = compiled(model)
    with counted(monkeypatch) as calls:
        output = step(**inputs)
    assert output.logits is None
    # Counted while it was traced: the compiled model holds these operators.
    assert calls["fused_linear_cross_entropy"] == 1
    assert (calls["rms_norm"], calls["fused_add_rms_norm"], calls["rope"]) == (2, 1, 1)
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_same_step((output.loss.detach(), gradients), expected)
    # A second call with the same shapes, then the same model without compile.
    assert error(step(**inputs).loss, expected[0]) <= 1e-5
    assert error(model(**inputs).loss, expected[0]) <= 1e-5


def test_inference_and_kept_logits():
    model = build()
    plain = model(**batch())
    patch(model)
    step = compiled(model)
    assert error(step(input_ids=batch()["input_ids"]).logits, plain.logits) <= 1e-5
    kept = step(**batch(), skip_logits=False)
    assert error(kept.logits, plain.logits) <= 1e-5
    assert error(kept.loss, plain.loss) <= 1e-5


def test_token_accuracy():
    model = build()
    patch(model)
    expected = model(**batch(), return_token_accuracy=True)
    found = compiled(model)(**batch(), return_token_accuracy=True)
    assert found.token_accuracy == expected.token_accuracy
    assert error(found.loss, expected.loss) <= 1e-5


def test_unfused_cross_entropy(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    patch(model, cross_entropy=True, fused_linear_cross_entropy=False)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(compiled(model)), with_prefix(expected))
    assert calls["cross_entropy"] == 1


def with_prefix(step):
    return step[0], {f"_orig_mod.{name}": gradient for name, gradient in step[1].items()}


def test_a_tail_that_is_not_plain_keeps_its_logits(monkeypatch):
    model = build("Gemma2", final_logit_softcapping=3.0)
    expected = loss_and_gradients(model)
    patch(model)
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(compiled(model))
    assert_same_step(found, with_prefix(expected), 1e-4)
    assert calls["fused_linear_cross_entropy"] == 0


def test_gradient_checkpointing():
    model = build(use_cache=False)
    expected = loss_and_gradients(model)
    patch(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_step(loss_and_gradients(compiled(model)), with_prefix(expected))


class InParts(LlamaForCausalLM):
    """Its head and loss are a method of their own."""

    def forward(self, input_ids=None, labels=None, **kwargs):
        return CausalLMOutput(self.part(self.model(input_ids).last_hidden_state, labels))

    def part(self, states, labels):
        rows = self.lm_head(states).view(-1, self.config.vocab_size)
        return F.cross_entropy(rows, labels.view(-1))


def compile_head(model):
    model.lm_head.compile(backend="aot_eager")


def replace_head(model):
    model.lm_head = torch.compile(model.lm_head, backend="aot_eager")


def compile_children(model):
    for child in model.children():
        child.compile(backend="aot_eager")


def compile_part(model):
    model.__class__ = InParts
    model.part = torch.compile(model.part, backend="aot_eager")


@pytest.mark.parametrize("change", [compile_head, replace_head, compile_children, compile_part])
def test_parts_that_are_compiled_by_themselves(change):
    found = []
    for patched in (False, True):
        torch._dynamo.reset()
        model = build()
        if change is compile_part:
            model.__class__ = InParts
        if patched:
            patch(model)
        change(model)
        found.append(loss_and_gradients(model))
    assert_same_step(found[1], found[0])


def test_a_graph_that_breaks_between_head_and_loss():
    class Broken(LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            logits = self.lm_head(self.model(input_ids).last_hidden_state)
            torch._dynamo.graph_break()
            rows = logits.view(-1, self.config.vocab_size)
            return CausalLMOutput(F.cross_entropy(rows, labels.view(-1)))

    model = build()
    model.__class__ = Broken
    expected = loss_and_gradients(model)
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        model.zero_grad()
        loss = step(**batch()).loss
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert_same_step((loss.detach(), gradients), expected)
