"""What comes between a head and its loss, or over either, after the patch: it gets real logits."""

import functools

import accelerate
import pytest
import torch
from liger_jit.patch import patch
from tiny_models import (
    assert_same_step,
    batch,
    build,
    counted,
    error,
    loss_and_gradients,
    shape_of,
)
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F
from torch.nn.utils import parametrize

VOCABULARY = 97


def small(family="Llama", **settings):
    """One layer: what is traced is the same for each of them."""
    return build(family, num_hidden_layers=1, **settings)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def as_is(model):
    return model


def step(model, how=as_is):
    loss, gradients = loss_and_gradients(how(model))
    return loss, {name.removeprefix("_orig_mod."): g for name, g in gradients.items()}


HOW = pytest.mark.parametrize("how", [as_is, compiled])


def smoothed(logits, labels, vocab_size, **kwargs):
    assert logits.shape[-1] == vocab_size == VOCABULARY
    rows, target = logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1)
    return F.cross_entropy(rows, target, label_smoothing=0.3)


def set_property(model, monkeypatch):
    model.loss_function = smoothed


def set_attribute(model, monkeypatch):
    model._loss_function = smoothed


def set_on_class(model, monkeypatch):
    monkeypatch.setattr(type(model), "loss_function", property(lambda self: smoothed))


def set_around_ours(model, monkeypatch):
    own = model.loss_function
    model.loss_function = lambda logits, **rest: own(logits=logits * 0.5, **rest)


@HOW
@pytest.mark.parametrize("change", [set_property, set_attribute, set_on_class, set_around_ours])
def test_a_loss_function_that_is_set_after_the_patch(change, how, monkeypatch):
    model = small()
    patch(model)
    change(model, monkeypatch)
    found = step(model, how)
    unpatched = small()
    change(unpatched, monkeypatch)
    assert_same_step(found, step(unpatched))


class Doubling(torch.Tensor):
    """Doubles each cross entropy that it is an argument of."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 2 if function is F.cross_entropy else result


def weighted_by_a_subclass(logits, labels, vocab_size, **kwargs):
    weight = torch.ones(vocab_size).as_subclass(Doubling)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)


@pytest.mark.parametrize("loss_function", [None, weighted_by_a_subclass])
def test_a_tensor_of_another_class_is_asked_for_its_loss(loss_function):
    inputs = batch()
    found = []
    for patched in (False, True):
        model = small()
        if patched:
            patch(model)
        if loss_function is not None:
            model.loss_function = loss_function
        else:
            inputs["labels"] = inputs["labels"].as_subclass(Doubling)
        loss = model(**inputs).loss
        loss.backward()
        gradients = {name: p.grad.as_subclass(torch.Tensor) for name, p in model.named_parameters()}
        found.append((loss.as_subclass(torch.Tensor), gradients))
    assert_same_step(*found)


def test_a_compiled_loss_function_gets_real_logits(monkeypatch):
    model = small()
    model.loss_function = smoothed
    expected = step(model)
    patch(model)
    torch._dynamo.reset()
    model.loss_function = torch.compile(smoothed, backend="aot_eager", fullgraph=True)
    assert_same_step(step(model), expected)


def in_a_closure(function):
    return lambda logits, labels, vocab_size, **kwargs: function(logits, labels, vocab_size)


def in_a_partial_function(function):
    return functools.partial(function, factor=1.0)


class WithALoss:
    def __init__(self, function):
        self.function = function

    def loss(self, logits, labels, vocab_size, **kwargs):
        return self.function(logits, labels, vocab_size)


class ModuleWithALoss(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, logits, labels, vocab_size, **kwargs):
        return self.function(logits, labels, vocab_size)


def in_a_method(function):
    return WithALoss(function).loss


def with_z_loss(logits, labels, vocab_size, factor=1.0, **kwargs):
    z_loss = 1e-2 * logits.logsumexp(-1).square().mean()
    return smoothed(logits, labels, vocab_size) + factor * z_loss


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def in_a_module_of_a_module(function):
    """Compiled as a module, as the function is."""
    is_compiled = hasattr(function, "_torchdynamo_orig_callable")
    inner = Called(function._torchdynamo_orig_callable if is_compiled else function)
    if is_compiled:
        inner = torch.compile(inner, backend="aot_eager", fullgraph=True)
    return ModuleWithALoss(inner)


@pytest.mark.parametrize(
    "called_in",
    [
        *(in_a_closure, in_a_partial_function, in_a_method, ModuleWithALoss),
        in_a_module_of_a_module,
    ],
)
def test_so_does_one_that_calls_a_compiled_function(called_in):
    model = small()
    model._loss_function = called_in(with_z_loss)
    expected = step(model)
    torch._dynamo.reset()
    compiled = torch.compile(with_z_loss, backend="aot_eager", fullgraph=True)
    model = small()
    patch(model)
    model._loss_function = called_in(compiled)
    assert_same_step(step(model), expected)


def head_and_loss(between):
    """A forward of the class that does something to the logits before the loss."""

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.lm_head(self.model(input_ids=input_ids).last_hidden_state)
        loss = self.loss_function(logits=between(logits), labels=labels, vocab_size=VOCABULARY)
        return {"loss": loss, "logits": logits}

    return forward


def written(logits):
    logits[..., 3] = -4.0
    return logits


def written_through_a_view(logits):
    logits.view(-1, VOCABULARY)[:, 3] -= 4.0
    return logits


BETWEEN = {
    "nothing": lambda logits: logits,
    "scaled": lambda logits: logits * 0.5,
    "shifted": lambda logits: logits + torch.arange(float(VOCABULARY)) / 50,
    "written": written,
    "written through a view": written_through_a_view,
    "another's": lambda logits: torch.ones_like(logits) * logits.mean(),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(("on_instance", "how"), [(False, as_is), (True, as_is), (False, compiled)])
def test_another_forward_of_the_model(between, on_instance, how, monkeypatch):
    def change(model):
        forward = head_and_loss(BETWEEN[between])
        if on_instance:
            model.forward = functools.partial(forward, model)
        else:
            monkeypatch.setattr(type(model), "forward", forward)

    def loss(model):
        output = how(model)(**batch())
        return output["loss"]

    model, unpatched = small(), small()
    patch(model)
    change(model)
    change(unpatched)
    found, expected = loss(model), loss(unpatched)
    assert error(found.detach(), expected.detach()) <= 1e-5
    own = list(model.parameters())
    wanted = torch.autograd.grad(expected, list(unpatched.parameters()))
    for one, other in zip(torch.autograd.grad(found, own), wanted, strict=True):
        assert error(one, other) <= 2e-5


@HOW
def test_a_softcap_that_is_set_after_the_patch(how):
    settings = {"final_logit_softcapping": None}
    model, unpatched = small("Gemma2", **settings), small("Gemma2", **settings)
    patch(model, rms_norm=False)
    plain = step(model, how)
    for one in (model, unpatched):
        one.config.final_logit_softcapping = 3.0
    expected = step(unpatched)
    assert error(plain[0], expected[0]) > 1e-2
    assert_same_step(step(model, how), expected, 1e-4)


SEEN = []


def seen(*args):
    SEEN.append(args[-1])


def doubled(*args):
    return args[-1] * 2


def forward_hook(model, hook):
    return model.lm_head.register_forward_hook(hook)


def global_hook(model, hook):
    def of_the_head(module, *rest):
        return hook(module, *rest) if module is model.lm_head else None

    return nn.modules.module.register_module_forward_hook(of_the_head)


@HOW
@pytest.mark.parametrize("place", [forward_hook, global_hook])
@pytest.mark.parametrize("hook", [seen, doubled])
def test_hooks_of_the_head_see_and_change_real_logits(hook, place, how):
    results = []
    for patched in (False, True):
        model = small()
        if patched:
            patch(model)
        handle = place(model, hook)
        SEEN.clear()
        try:
            results.append((step(model, how if patched else as_is), list(SEEN)))
        finally:
            handle.remove()
    (expected, wanted), (found, known) = results
    assert_same_step(found, expected)
    for one, other in zip(known, wanted, strict=True):
        assert type(one) is torch.Tensor
        assert error(one.detach(), other.detach()) <= 1e-5


def test_backward_hooks_of_the_head_see_the_gradient_of_its_logits():
    results = []
    for patched in (False, True):
        model = small()
        if patched:
            patch(model)
        SEEN.clear()
        model.lm_head.register_full_backward_hook(lambda head, into, out: seen(*out))
        results.append((step(model), *SEEN))
    (expected, wanted), (found, known) = results
    assert_same_step(found, expected)
    assert error(known, wanted) <= 1e-5


@HOW
def test_a_wrapper_over_the_heads_forward_sees_real_logits(how):
    model = small()
    expected = step(model)
    patch(model)
    own, types = model.lm_head.forward, []

    @functools.wraps(own)
    def wrapper(x):
        logits = own(x)
        types.append(type(logits))
        return logits * 1.0

    model.lm_head.forward = wrapper
    assert_same_step(step(model, how), expected)
    assert how is compiled or types == [torch.Tensor]


class Half(nn.Module):
    def forward(self, weight):
        return weight * 0.5


class Kept(torch.Tensor):
    """A class of tensors that does nothing."""


def biased(model):
    model.lm_head.bias = nn.Parameter(torch.linspace(-1, 1, VOCABULARY))


def untied(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def tied(model):
    model.lm_head.weight = model.model.embed_tokens.weight


def of_another_class(model):
    weight = model.lm_head.weight.detach().as_subclass(Kept)
    model.lm_head.weight = nn.Parameter(weight)


def parametrized(model):
    parametrize.register_parametrization(model.lm_head, "weight", Half())


def normed(model):
    nn.utils.parametrizations.weight_norm(model.lm_head)


def replaced(model):
    head = nn.Linear(32, VOCABULARY)
    torch.manual_seed(0)
    nn.init.normal_(head.weight)
    nn.init.normal_(head.bias)
    model.set_output_embeddings(head)


HEADS = [biased, untied, tied, of_another_class, parametrized, normed, replaced]
TRACED_HEADS = [biased, parametrized, replaced]


@pytest.mark.parametrize(
    ("change", "how"),
    [*((change, as_is) for change in HEADS), *((change, compiled) for change in TRACED_HEADS)],
)
@pytest.mark.parametrize("first", ["patch", "change"])
def test_another_head(change, first, how):
    tie = change is untied
    model, unpatched = small(tie_word_embeddings=tie), small(tie_word_embeddings=tie)
    change(unpatched)
    expected = step(unpatched)
    for action in (patch, change) if first == "patch" else (change, patch):
        action(model)
    assert_same_step(step(model, how), expected)


def test_a_parametrisation_is_computed_as_often_as_it_was():
    class Counting(nn.Module):
        calls = 0

        def forward(self, weight):
            Counting.calls += 1
            return weight * 1

    counts = []
    for patched in (False, True):
        model = small()
        parametrize.register_parametrization(model.lm_head, "weight", Counting())
        Counting.calls = 0
        if patched:
            patch(model)
        step(model)
        counts.append(Counting.calls)
    assert counts[1] == counts[0]


def test_another_forward_of_all_linear_layers(monkeypatch):
    model, unpatched = small(), small()
    patch(model, swiglu=False)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: F.linear(x, self.weight * 0.9))
    assert_same_step(step(model), step(unpatched))


def products_of(model, columns):
    """Matrix products of a compiled training step that have that many columns."""
    found = []

    def look(graph, inputs):
        for node in graph.graph.nodes:
            value = node.meta.get("val")
            if "mm" in str(node.target) and value.shape[-1] == columns:
                found.append(node)
        return graph

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=look)
    torch.compile(model, backend=backend, fullgraph=True)(**batch()).loss.backward()
    return found


def test_a_compiled_step_has_no_product_of_logits():
    model = small()
    assert products_of(model, VOCABULARY)
    patch(model)
    assert not products_of(model, VOCABULARY)


def wrap_head(model):
    model.lm_head.forward = functools.wraps(model.lm_head.forward)(
        functools.partial(lambda own, x: own(x), model.lm_head.forward)
    )


def wrap_model(model):
    own = model.forward

    @functools.wraps(own)
    def forward(*args, **kwargs):
        return own(*args, **kwargs)

    model.forward = forward


def wrap_loss(model):
    own = model.loss_function
    model.loss_function = lambda *args, **kwargs: own(*args, **kwargs)


@pytest.mark.parametrize("wrap", [wrap_head, wrap_model, wrap_loss])
def test_what_was_put_over_ours_runs_the_originals_after_unpatch(wrap, monkeypatch):
    model = small()
    expected = step(model)
    logits = model(**batch()).logits.detach()
    handle = patch(model)
    wrap(model)
    assert_same_step(step(model), expected)
    handle.unpatch()
    with counted(monkeypatch) as calls:
        assert_same_step(step(model), expected)
        output = model(**batch())
    assert not calls
    assert torch.equal(output.logits, logits)


@pytest.mark.parametrize("wrap", [wrap_head, wrap_model, wrap_loss])
def test_what_was_put_over_ours_stays_when_the_patch_comes_back(wrap, monkeypatch):
    model = small()
    expected = step(model)
    handle = patch(model)
    wrap(model)
    shape = shape_of(model)
    places = [one.__dict__.get("forward") for one in (model, model.lm_head)]
    loss_function = model.loss_function
    assert handle.verify().passed
    assert [one.__dict__.get("forward") for one in (model, model.lm_head)] == places
    assert model.loss_function == loss_function
    assert shape_of(model) == shape
    with counted(monkeypatch) as calls:
        assert_same_step(step(model), expected)
    # A head with something over its forward is called for its logits.
    assert calls["fused_linear_cross_entropy"] == (wrap is not wrap_head)


def test_a_second_patch_knows_ours_under_nothing_but_itself():
    model = small()
    patch(model)
    assert patch(model).report()[-1].status == "already patched"
    wrap_head(model)
    assert "already replaced on the instance" in patch(model).report()[-1].status


def test_mixed_precision_of_accelerate_and_the_way_back(monkeypatch):
    model = small()
    # Other tests of this process may have made an accelerator of another precision.
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    expected = step(accelerator.prepare(small()))
    patch(model)
    prepared = accelerator.prepare(model)
    with counted(monkeypatch) as calls:
        found = step(prepared)
    assert calls["fused_linear_cross_entropy"] == 1
    assert error(found[0], expected[0]) <= 1e-2
    plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert_same_step(step(plain), step(small()))


def test_mixed_precision_of_accelerate_is_taken_off_under_a_later_patch(monkeypatch):
    """Who takes a wrapper off follows `__wrapped__` from the model's forward, which is ours."""
    model = small()
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(model)
    handle = patch(prepared)
    with counted(monkeypatch) as calls:
        step(prepared)
    assert calls["fused_linear_cross_entropy"] == 1
    plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert_same_step(step(plain), step(small()))
    handle.unpatch()
    assert_same_step(step(plain), step(small()))


@pytest.mark.parametrize("change", ["the mapping", "the type"])
def test_a_loss_type_that_changes_after_the_patch(change, monkeypatch):
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    def doubled(*args, **kwargs):
        return 2 * ForCausalLMLoss(*args, **kwargs)

    model, reference = small(), small()
    patch(model)
    step(model)
    if change == "the mapping":
        monkeypatch.setitem(LOSS_MAPPING, "ForCausalLM", doubled)
    else:
        monkeypatch.setitem(LOSS_MAPPING, "Doubled", doubled)
        model.loss_type = reference.loss_type = "Doubled"
    expected, found = step(reference), step(model)
    assert error(found[0], expected[0]) <= 1e-5
