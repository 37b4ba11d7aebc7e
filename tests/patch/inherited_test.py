"""What a module's code inherits, and names of its closure: found anew at each call, by the order
that its class's bases have then."""

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.answers import Answers
from liger_jit.patch.guard import Guard
from liger_jit.patch.rule import Proof, Refusal, Rule
from tiny_models import assert_same_step, batch, build, error, loss_and_gradients
from torch import nn
from transformers.models.llama import modeling_llama


def of_super(base):
    class Own(base):
        def forward(self, x):
            return super().forward(x)

    return Own


def of_another_method(base):
    class Named(base):
        def own(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class Own(Named):
        def inner(self, x):
            return super().own(x)

        def forward(self, x):
            return self.inner(x)

    return Own


def halved(base, name="forward"):
    own = getattr(base, name)
    return type("Halved", (base,), {name: lambda self, x: 0.5 * own(self, x)})


PLACES = {
    "norm": (modeling_llama.LlamaRMSNorm, of_super, "forward"),
    "mlp": (modeling_llama.LlamaMLP, of_super, "forward"),
    "a method of the mlp": (modeling_llama.LlamaMLP, of_another_method, "own"),
    "activation": (nn.SiLU, of_super, "forward"),
}


def with_own_class(place):
    """A model, the modules of its own class, and that class."""
    model = build("Llama")
    base, make, _ = PLACES[place]
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.SiLU()
    modules = [one for one in model.modules() if type(one) is base]
    own = make(base)
    for one in modules:
        one.__class__ = own
    assert modules
    return model, modules, own


def another_base(modules, own, name):
    own.__bases__ = (halved(own.__bases__[0], name),)


def between_in_the_order(modules, own, name):
    both = type("Both", (own, halved(own.__bases__[0], name)), {})
    for one in modules:
        one.__class__ = both


@pytest.mark.parametrize("change", [another_base, between_in_the_order])
@pytest.mark.parametrize("place", PLACES)
def test_what_super_finds_is_looked_up_at_each_call(place, change):
    name = PLACES[place][2]
    reference, modules, own = with_own_class(place)
    untouched = loss_and_gradients(reference)
    change(modules, own, name)
    expected = loss_and_gradients(reference)
    with pytest.raises(AssertionError):
        assert_same_step(expected, untouched)
    model, modules, own = with_own_class(place)
    handle = patch(model)
    assert_same_step(loss_and_gradients(model), untouched)
    assert {row.own_calls for row in handle.report()} == {0}
    change(modules, own, name)
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("place", PLACES)
def test_a_class_that_adds_nothing_changes_nothing(place):
    """As sharding gives each module a class of its own."""
    model, modules, own = with_own_class(place)
    handle = patch(model)
    for one in modules:
        one.__class__ = type("Bare", (own,), {})
    loss_and_gradients(model)
    assert {row.own_calls for row in handle.report()} == {0}


@pytest.mark.parametrize("place", PLACES)
def test_a_compiled_step_asks_what_super_finds(place):
    model, modules, own = with_own_class(place)
    name = PLACES[place][2]
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = step(**batch()).loss
    between_in_the_order(modules, own, name)
    reference, modules, own = with_own_class(place)
    assert error(before, loss_and_gradients(reference)[0]) < 1e-5
    between_in_the_order(modules, own, name)
    assert error(step(**batch()).loss, loss_and_gradients(reference)[0]) < 1e-5


def test_a_builtin_in_a_closure_is_watched():
    def make(float=float):
        class Own(modeling_llama.LlamaRMSNorm):
            def forward(self, hidden_states):
                dtype = hidden_states.dtype
                x = hidden_states.to(torch.float32)
                variance = x.pow(2).mean(-1, keepdim=True)
                x = x * torch.rsqrt(variance + float(self.variance_epsilon))
                return self.weight * x.to(dtype)

        return Own

    results = []
    for is_patched in (False, True):
        model, own = build("Llama"), make()
        model.model.norm.__class__ = own
        handle = patch(model) if is_patched else None
        before = loss_and_gradients(model)
        if handle is not None:
            assert {row.own_calls for row in handle.report()} == {0}
        place = own.forward.__code__.co_freevars.index("float")
        own.forward.__closure__[place].cell_contents = lambda x: 0.5
        results.append((before, loss_and_gradients(model)))
    (plain_before, plain), (patched_before, patched) = results
    assert_same_step(patched_before, plain_before)
    with pytest.raises(AssertionError):
        assert_same_step(plain, plain_before)
    assert_same_step(patched, plain)


def test_the_class_of_a_module_that_rotates_is_looked_up(monkeypatch):
    """As packages of kernels put a module in a function's place."""
    rotate = modeling_llama.apply_rotary_pos_emb

    class Rotation(nn.Module):
        def forward(self, q, k, cos, sin, unsqueeze_dim=1):
            return rotate(q, k, cos, sin, unsqueeze_dim)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", Rotation())
    model, reference = build("Llama"), build("Llama")
    handle = patch(model)
    assert any(row.patched and row.role == "rope" for row in handle.report())
    untouched = loss_and_gradients(reference)
    assert_same_step(loss_and_gradients(model), untouched)

    def other(self, q, k, cos, sin, unsqueeze_dim=1):
        return tuple(2 * one for one in rotate(q, k, cos, sin, unsqueeze_dim))

    monkeypatch.setattr(Rotation, "forward", other)
    expected = loss_and_gradients(reference)
    with pytest.raises(AssertionError):
        assert_same_step(expected, untouched)
    assert_same_step(loss_and_gradients(model), expected)


class MaybeScaled(modeling_llama.LlamaRMSNorm):
    """It has no factor where it does not scale."""

    scaled = False

    def forward(self, hidden_states):
        dtype = hidden_states.dtype
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        if self.scaled:
            x = x * self.factor
        return self.weight * x.to(dtype)


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_an_attribute_that_nothing_holds_is_missing_later_too(how):
    model, reference = build("Llama"), build("Llama")
    for one in (model, reference):
        one.model.norm.__class__ = MaybeScaled
    handle = patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager", fullgraph=True) if how == "compiled" else model
    assert error(step(**batch()).loss, loss_and_gradients(reference)[0]) < 1e-5
    assert not any(row.own_calls for row in handle.report())
    for one in (model, reference):
        one.model.norm.scaled, one.model.norm.factor = True, 3.0
    expected = loss_and_gradients(reference)[0]
    assert error(step(**batch()).loss, expected) < 1e-5


def test_a_proof_that_does_not_hold_when_it_is_made_is_none():
    norm = nn.RMSNorm(8)
    guard = Guard(nn.RMSNorm.forward, values=(("eps", 3.0),))
    proof = Proof("rms_norm", nn.RMSNorm.forward, guard, nn.RMSNorm.forward)
    rule = Rule("rms_norm", ("rms_norm",), bool, type, lambda module: proof, lambda *_: proof)
    refusal = Answers().proved(rule, norm)
    assert isinstance(refusal, Refusal) and "eps is another" in refusal.reason
