"""Forwards of decoder layers in all forms: where a sum is found, what a probe has to give them, and
decorators around them."""

import ast
import functools
from types import FunctionType

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.rules.add_norm_source import Unnamed, fuse, sums_in
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def statements(text):
    return ast.parse(text).body


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "x = r + x\nr = x\nx = self.norm(x)",
            "_liger_jit_normed_0, x = _liger_jit_add_and_norm(self.norm, r, x)\n"
            "r = x\nx = _liger_jit_normed_0\ndel _liger_jit_normed_0",
        ),
        (
            "y = a(x) + 0.5 * x\nz = self.norm(y)",
            "_liger_jit_normed_0, y = _liger_jit_add_and_norm(self.norm, a(x), 0.5 * x)\n"
            "z = _liger_jit_normed_0\ndel _liger_jit_normed_0",
        ),
        (
            "x = r + x\nreturn x * self.norm(x)",
            "_liger_jit_normed_0, x = _liger_jit_add_and_norm(self.norm, r, x)\n"
            "return x * _liger_jit_normed_0",
        ),
        # The second sum is the first's place of use.
        (
            "x = x + y\nx = x + self.mlp(self.one(x), k=1)\nkept = x\nz = self.two(x)",
            "_liger_jit_normed_0, x = _liger_jit_add_and_norm(self.one, x, y)\n"
            "_liger_jit_normed_1, x = _liger_jit_add_and_norm(self.two, x, "
            "self.mlp(_liger_jit_normed_0, k=1))\n"
            "del _liger_jit_normed_0\nkept = x\nz = _liger_jit_normed_1\ndel _liger_jit_normed_1",
        ),
    ],
)
def test_a_sum_and_the_norm_after_it_become_one_call(before, after):
    body = statements(before)
    fuse(body, tuple(one.norm for one in sums_in(body)))
    assert "\n".join(map(ast.unparse, body)) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = self.norm(r + x)", "x = _liger_jit_add_and_norm(self.norm, r, x)[0]"),
        (
            "return r + self.norm(a(x) + b(x) + c(x))",
            "return r + _liger_jit_add_and_norm(self.norm, a(x) + b(x), c(x))[0]",
        ),
        (
            "if x: y = self.norm(r + self.two(x + r))",
            "if x:\n    y = _liger_jit_add_and_norm(self.norm, r, "
            "_liger_jit_add_and_norm(self.two, x, r)[0])[0]",
        ),
        ("x = self.norm(r - x)", None),
        ("x = self.norm(r + x, 1)", None),
        ("x = self.norm(x=r + x)", None),
        ("x = other.norm(r + x)", None),
        ("x = self.other(r + x)", None),
        ("x = self.norm.one(r + x)", None),
        ("x = self.norm(*r + x)", None),
    ],
)
def test_a_norm_of_a_sum_becomes_one_call(before, after):
    tree = Unnamed(("norm", "two")).visit(ast.parse(before))
    assert ast.unparse(tree) == (after or before)


@pytest.mark.parametrize(
    "text",
    [
        "x = r - x\nx = self.norm(x)",
        "x += r\nx = self.norm(x)",
        "x, y = r + x, 1\nx = self.norm(x)",
        "x.y = r + x\nx = self.norm(x.y)",
        "x = r + x\nz = self.norm(r)",
        "x = r + x\nz = self.norm(x, r)",
        "x = r + x\nz = self.norm(x=x)",
        "x = r + x\nz = self.norm(*x)",
        "x = r + x\nz = other.norm(x)",
        # Something may happen between the two, or only one of them.
        "x = r + x\nprint(x)\nz = self.norm(x)",
        "x = r + x\nx = x\nz = self.norm(x)",
        "x = r + x\nz = other(r) + self.norm(x)",
        "x = r + x\nz = r[0] + self.norm(x)",
        "x = r + x\nz = self.norm(x) if r else x",
        "x = r + x\nz = r or self.norm(x)",
        "x = r + x\nz = lambda: self.norm(x)",
        "x = r + x\nz = [self.norm(x) for _ in r]",
        "x = r + x\nif r: z = self.norm(x)",
        "x = r + x",
        "x = r + x\nreturn",
    ],
)
def test_other_statements_are_none(text):
    assert sums_in(statements(text)) == []


class AskingLayer(LlamaDecoderLayer):
    """Wants to be given what it does not use itself."""

    def forward(self, hidden_states, position_embeddings, cross_states, *, mask, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states, position_embeddings)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        if mask is not None:
            hidden_states = mask[:, 0] * hidden_states
        return residual + hidden_states


class ScalingLayer(LlamaDecoderLayer):
    """Uses an argument that has a default, a buffer and a parameter of its own."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.register_buffer("scale", torch.full((1,), 0.7))
        self.gate = nn.Parameter(torch.full((1,), 0.3))

    def forward(self, hidden_states, other=None, use_cache=False, **kwargs):
        mixed = self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        hidden_states = hidden_states + self.gate.tanh() * mixed
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        hidden_states *= self.scale
        return hidden_states * other


class PairingMlp(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(x), None


class RoutedLayer(LlamaDecoderLayer):
    """Takes two values from its MLP, in a statement that does not name it."""

    is_routed = True

    def forward(self, hidden_states, **kwargs):
        residual = hidden_states
        hidden_states, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        if self.is_routed:
            hidden_states, _ = hidden_states
        return residual + hidden_states.view(residual.shape)


class Frame(nn.Module):
    """Gives a layer what it asks for."""

    def __init__(self, layer, **given):
        super().__init__()
        self.layer, self.given = layer, given

    def forward(self, hidden_states, **kwargs):
        return self.layer(hidden_states, **self.given, **kwargs)


def framed(model, kind, **given):
    """The model with layers of that kind instead of its own."""
    torch.manual_seed(8)
    for i, own in enumerate(model.model.layers):
        layer = kind(model.config, i)
        layer.load_state_dict(own.state_dict(), strict=False)
        if kind is RoutedLayer:
            layer.mlp = PairingMlp(layer.mlp)
        model.model.layers[i] = Frame(layer, **given).train()
    return model


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (AskingLayer, {"cross_states": None, "mask": None}),
        (ScalingLayer, {"other": 1.5}),
        (RoutedLayer, {}),
    ],
)
def test_a_layer_is_given_what_its_forward_wants(kind, given, monkeypatch):
    model = framed(build(), kind, **given)
    expected = loss_and_gradients(model)
    handle = patch(model)
    told = [row.status for row in handle.report() if row.module == kind.__name__]
    assert told == ["patched"] * 2
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["fused_add_rms_norm"] == 2


class HalfLayer(LlamaDecoderLayer):
    """Has a sum that goes to a norm and one that goes to an MLP."""

    def forward(self, hidden_states, **kwargs):
        mixed = self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        summed = hidden_states + mixed
        hidden_states = self.mlp(summed)
        summed = summed + hidden_states
        return self.post_attention_layernorm(summed)


class EarlyLayer(LlamaDecoderLayer):
    early = True

    def forward(self, hidden_states, **kwargs):
        if self.early:
            return hidden_states * 2
        hidden_states = hidden_states + hidden_states
        return_value = self.post_attention_layernorm(hidden_states)
        return return_value


def rows_of(model, kind):
    layers = model.model.layers
    for layer in layers:
        layer.__class__ = kind
    expected = loss_and_gradients(model)
    handle = patch(model)
    assert_same_step(loss_and_gradients(model), expected)
    return [row for row in handle.report() if row.module == kind.__name__]


def test_a_sum_that_goes_elsewhere_keeps_no_other_from_its_norm(monkeypatch):
    model = build()
    assert {row.status for row in rows_of(model, HalfLayer)} == {"patched"}
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["fused_add_rms_norm"] == 2


def test_a_forward_that_does_not_come_to_its_sum_is_left_alone():
    (reason,) = {row.status for row in rows_of(build(), EarlyLayer)}
    assert reason == "its forward, as it is set, does not come to the sum before its norm"


KEPT = []


def theirs(decorator):
    """The same as a file of transformers has it."""
    scope = {**globals(), "__name__": "transformers.decorators"}
    return FunctionType(decorator.__code__, scope, decorator.__name__)


@theirs
def plainly_wrapped(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    return wrapper


@theirs
def knowing_itself(function):
    """As layers of transformers do that checkpoint their forward: it asks whether it is the class's
    own."""

    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        assert type(self).forward is wrapper
        return function(self, *args, **kwargs)

    return wrapper


@theirs
def by_another_door(function):
    def inner(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        assert function.__name__ == "forward"
        return inner(self, *args, **kwargs)

    return wrapper


@theirs
def by_default(function):
    @functools.wraps(function)
    def wrapper(self, *args, inner=function, **kwargs):
        assert function is inner
        return inner(self, *args, **kwargs)

    return wrapper


@theirs
def by_a_table(function):
    doors = {"forward": [functools.partial(function)]}

    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        assert function
        return doors["forward"][0](self, *args, **kwargs)

    return wrapper


@theirs
def by_a_global(function):
    wrapper = functools.wraps(function)(
        lambda self, *args, **kwargs: KEPT[-1](self, *args, **kwargs)
    )
    KEPT.append(function)
    return wrapper


class AnObject:
    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner=None):
        return functools.partial(self.__wrapped__, instance) if instance is not None else self


HIDDEN = "a decorator of its forward may do more with it than call it"


def by_anybody(function):
    """As profilers and tracers know functions: by what they are, and by attributes."""
    names = {function: "found"}

    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        assert names[function] == "found"
        KEPT.append(function)
        return function(self, *args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("decorate", "status"),
    [
        (plainly_wrapped, "patched"),
        (lambda function: plainly_wrapped(plainly_wrapped(function)), "patched"),
        (lambda function: knowing_itself(plainly_wrapped(function)), "patched"),
        (by_anybody, HIDDEN),
        (by_another_door, HIDDEN),
        (by_default, HIDDEN),
        (by_a_table, HIDDEN),
        (by_a_global, HIDDEN),
        (AnObject, HIDDEN),
    ],
)
def test_a_fusion_is_reached_through_all_decorators_or_not_made(decorate, status, monkeypatch):
    """Through whichever door a decorator calls what it wraps, that is the rewritten function."""

    class Decorated(LlamaDecoderLayer):
        pass

    # Not in its body: classes of transformers may decorate what they find there.
    Decorated.forward = decorate(LlamaDecoderLayer.forward)
    model = build()
    (found,) = {row.status for row in rows_of(model, Decorated)}
    assert found == status
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["fused_add_rms_norm"] == (2 if status == "patched" else 0)


def test_a_class_that_a_layer_gets_later_may_decorate_its_forward_anew(monkeypatch):
    """As the class that a module gets when it is sharded, whose bases see a new subclass."""

    sharded = a_subclass(knowing_itself)
    model = build()
    expected = loss_and_gradients(model)
    handle = patch(model)
    in_class(model, sharded)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["fused_add_rms_norm"] == 2
    assert not any(row.own_calls for row in handle.report())
    # But not if it does something else.
    for changed in (
        by_another_door,
        by_a_global,
        lambda own: lambda self, *a, **k: own(self, *a, **k),
    ):
        sharded.forward = changed(LlamaDecoderLayer.forward)
        with counted(monkeypatch) as calls:
            assert_same_step(loss_and_gradients(model), expected)
        assert calls["fused_add_rms_norm"] == 0
    (row,) = {row.why for row in handle.report() if row.module == "Sharded" or row.own_calls}
    assert row == "its class has another forward"


@pytest.mark.parametrize("decorate", [plainly_wrapped, knowing_itself])
def test_decorators_that_came_later_are_compiled(decorate, monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    patch(model)
    in_class(model, a_subclass(decorate))
    loss_and_gradients(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager", fullgraph=True)
    with counted(monkeypatch) as calls:
        output = step(**batch())
    assert calls["fused_add_rms_norm"] == 2
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_same_step((output.loss.detach(), gradients), expected)


def a_subclass(decorate):
    class Sharded(LlamaDecoderLayer):
        pass

    Sharded.forward = decorate(LlamaDecoderLayer.forward)
    return Sharded


def test_decorators_that_came_later_are_watched(monkeypatch):
    model, sharded = build(), a_subclass(plainly_wrapped)
    patch(model)
    in_class(model, sharded)
    loss_and_gradients(model)
    sharded.forward.__code__ = twice(LlamaDecoderLayer.forward).__code__
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    assert calls["fused_add_rms_norm"] == 0
    assert_same_step(found, loss_and_gradients(in_class(build(), sharded)))


def twice(function):
    def wrapper(self, *args, **kwargs):
        return 2 * function(self, *args, **kwargs)

    return wrapper


def in_class(model, kind):
    for layer in model.model.layers:
        layer.__class__ = kind
    return model


def test_a_checkpointed_layer_is_computed_again_and_fused_again(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert {row.status for row in patch(model).report() if "Layer" in row.module} == {"patched"}
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    assert_same_step(found, expected)
    assert calls["fused_add_rms_norm"] == 4
    # And nothing is computed twice without gradients.
    with torch.no_grad(), counted(monkeypatch) as calls:
        model(**batch())
    assert calls["fused_add_rms_norm"] == 2
