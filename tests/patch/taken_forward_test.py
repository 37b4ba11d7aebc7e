"""A bound forward that somebody took of a patched model stands for what it stood for then, whatever
forward the module's class gets later."""

import copy
import threading
from contextlib import contextmanager
from functools import partial, wraps
from types import MethodType, SimpleNamespace

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from liger_jit.patch import patch
from liger_jit.patch.installed import standing
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients, shape_of
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaForCausalLM

PARTS = ["model.norm", "model.layers.0.mlp", "model.layers.0.self_attn", "model.layers.0"]
ALL = [*PARTS, "model", "lm_head", ""]


def scaled(output, factor=1.5):
    if isinstance(output, torch.Tensor):
        return output * factor
    if isinstance(output, tuple):
        return output[0] * factor, *output[1:]
    output[next(iter(output))] = next(iter(output.values())) * factor
    return output


@contextmanager
def class_forward(module, forward):
    """While it is the class's; other modules of the class keep theirs."""
    kind, own = type(module), type(module).forward

    def either(self, *args, **kwargs):
        return (forward if self is module else own)(self, *args, **kwargs)

    kind.forward = either
    try:
        yield
    finally:
        kind.forward = own


def cover(module):
    taken = module.forward
    module.forward = lambda *args, **kwargs: taken(*args, **kwargs)


def decorated(own):
    """A class's new forward, around the one it has."""

    @wraps(own)
    def forward(self, *args, **kwargs):
        return scaled(own(self, *args, **kwargs))

    return forward


def calls_it(module):
    taken = partial(module.forward)
    return lambda self, *args, **kwargs: scaled(taken(*args, **kwargs))


def checkpoints_it(module):
    taken = module.forward
    return lambda self, *args, **kwargs: scaled(
        checkpoint(taken, *args, use_reentrant=False, **kwargs)
    )


def calls_it_on_another_thread(module):
    taken, depth = module.forward, []

    def forward(self, *args, **kwargs):
        assert not depth, "it calls itself"
        depth.append(1)
        made = []
        thread = threading.Thread(target=lambda: made.append(taken(*args, **kwargs)))
        thread.start()
        thread.join()
        depth.pop()
        return scaled(made[0])

    return forward


def recurses(module):
    own, depth = type(module).forward, []

    def forward(self, *args, **kwargs):
        depth.append(1)
        try:
            return scaled((partial(own, self) if len(depth) > 1 else self)(*args, **kwargs))
        finally:
            depth.pop()

    return forward


def steps_with(change, path, model):
    """Losses and gradients, with the class's new forward and without it."""
    module = model.get_submodule(path)
    with class_forward(module, change(module)):
        during = [loss_and_gradients(model) for _ in range(2)]
    return *during, loss_and_gradients(model)


@pytest.mark.parametrize(
    "change, path",
    [
        *[(calls_it, path) for path in ALL],
        *[(recurses, path) for path in ALL],
        *[(checkpoints_it, path) for path in PARTS],
        *[(calls_it_on_another_thread, path) for path in PARTS],
    ],
)
def test_a_classes_new_forward_may_call_the_one_that_was_taken(change, path):
    model = build(use_cache=False)
    expected = steps_with(change, path, model)
    patch(model)
    found = steps_with(change, path, model)
    for one, other in zip(found, expected, strict=True):
        assert_same_step(one, other)
    with pytest.raises(AssertionError):
        assert_same_step(expected[0], expected[-1])
    if path in ("model.norm", "model.layers.0.mlp"):
        assert standing(model.get_submodule(path)) is not None


@pytest.mark.parametrize("path", PARTS)
def test_so_may_each_of_several(path):
    def two(model):
        module = model.get_submodule(path)
        with class_forward(module, calls_it(module)):
            found = [loss_and_gradients(model)]
            with class_forward(module, calls_it(module)):
                found.append(loss_and_gradients(model))
            return *found, loss_and_gradients(model)

    model = build()
    expected = two(model)
    handle = patch(model)
    for one, other in zip(two(model), expected, strict=True):
        assert_same_step(one, other)
    handle.unpatch()
    assert shape_of(model) == shape_of(build())


def assert_same_steps(steps):
    """That a patched model does these as one that is not patched."""
    model, other = build(), build()
    expected = steps(model)
    patch(other)
    for one, found in zip(steps(other), expected, strict=True):
        assert_same_step(found, one)


@pytest.mark.parametrize("path", ALL)
def test_what_a_covering_forward_called_before_it_calls_ever_after(path):
    def steps(model):
        module = model.get_submodule(path)
        change = decorated(type(module).forward)
        cover(module)
        found = [loss_and_gradients(model)]
        with class_forward(module, change):
            found.append(loss_and_gradients(model))
        return found

    assert_same_steps(steps)


@pytest.mark.parametrize("path", PARTS)
def test_so_it_does_where_the_new_forward_decorates_the_old_one(path):
    def steps(model):
        module = model.get_submodule(path)
        kind, own = type(module), type(module).forward

        cover(module)
        found = [loss_and_gradients(model)]
        kind.forward = decorated(own)
        try:
            found.append(loss_and_gradients(model))
        finally:
            kind.forward = own
        return found

    assert_same_steps(steps)


@pytest.mark.parametrize("path", ALL)
def test_what_covers_a_class_that_was_changed_calls_the_new_forward(path):
    def step(model):
        module = model.get_submodule(path)
        change = decorated(type(module).forward)
        with class_forward(module, change):
            cover(module)
            return loss_and_gradients(model)

    model, other = build(), build()
    expected = step(model)
    patch(other)
    assert_same_step(step(other), expected)


@pytest.mark.parametrize("path", ALL)
def test_a_copy_has_what_its_cover_took(path, monkeypatch):
    """A cover that a deep copy has one of its own of."""

    def steps(model):
        module = model.get_submodule(path)
        module.forward = partial(module.forward)
        found = [loss_and_gradients(model)]
        with monkeypatch.context() as changed:
            changed.setattr(type(module), "forward", decorated(type(module).forward))
            found += [loss_and_gradients(model), loss_and_gradients(copy.deepcopy(model))]
        return found

    assert_same_steps(steps)


@pytest.mark.parametrize("covered_within", [False, True], ids=["after", "within"])
@pytest.mark.parametrize("path", ALL)
def test_what_covers_a_class_that_had_another_forward_for_a_while(path, covered_within):
    def steps(model, handle=None):
        module = model.get_submodule(path)
        with class_forward(module, decorated(type(module).forward)):
            found = [loss_and_gradients(model)]
            if covered_within:
                cover(module)
                found.append(loss_and_gradients(model))
        if not covered_within:
            cover(module)
        found += [loss_and_gradients(model) for _ in range(2)]
        if handle is not None:
            handle.unpatch()
        return *found, loss_and_gradients(model)

    model, other = build(), build()
    expected = steps(model)
    for one, found in zip(steps(other, patch(other)), expected, strict=True):
        assert_same_step(found, one)


def test_one_that_is_kept_after_the_patch_is_the_modules_own(monkeypatch):
    model = build()
    handle = patch(model)
    mlp, x = model.model.layers[0].mlp, torch.randn(2, 3, 32)
    taken, own = (mlp.forward, model.lm_head.forward), modeling_llama.LlamaMLP.forward
    handle.unpatch()
    with class_forward(mlp, calls_it(mlp)), class_forward(model.lm_head, lambda self, x: 0):
        with counted(monkeypatch) as ours:
            assert torch.equal(taken[0](x), own(mlp, x))
            assert torch.equal(taken[1](x), nn.functional.linear(x, model.lm_head.weight))
    assert not ours


def test_a_copy_that_is_made_while_the_class_has_another_forward_is_patched(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    handle = patch(model)
    norm = model.model.norm
    with class_forward(norm, calls_it(norm)):
        model(**batch())
        twin = copy.deepcopy(model)
    handle.unpatch()
    with counted(monkeypatch) as ours:
        assert_same_step(loss_and_gradients(twin), expected)
    assert ours["rms_norm"] and standing(twin.model.norm) is not None


class Halves:
    """A class's new forward, which takes a batch apart by calls of the module's forward of now."""

    def __init__(self, own):
        self.own = own

    def of_a_model(self):
        own = self.own

        @wraps(own)
        def forward(self, input_ids=None, labels=None, **more):
            if len(input_ids) > 1:
                parts = zip(input_ids.split(1), labels.split(1))
                losses = [self.forward(input_ids=i, labels=n, **more).loss for i, n in parts]
                return CausalLMOutputWithPast(loss=sum(losses))
            output = own(self, input_ids=input_ids, labels=labels, **more)
            output.loss = output.loss * 0.3
            return output

        return forward

    def of_a_layer(self):
        own = self.own

        @wraps(own)
        def forward(self, x):
            if len(x) > 1:
                return torch.cat([self.forward(part) for part in x.split(1)])
            return own(self, x) * 1.3

        return forward


@pytest.mark.parametrize("name", ["model", "head"])
def test_a_new_forward_that_calls_itself(name, monkeypatch):
    model, reference = build(), build()
    patch(model)
    untouched = loss_and_gradients(model)
    kind = type(model) if name == "model" else nn.Linear
    halves = Halves(kind.forward)
    monkeypatch.setattr(
        kind, "forward", halves.of_a_model() if name == "model" else halves.of_a_layer()
    )
    expected = loss_and_gradients(reference)
    with pytest.raises(AssertionError):
        assert_same_step(expected, untouched)
    assert_same_step(loss_and_gradients(model), expected)


def plus_a_tenth(own):
    @wraps(own)
    def forward(*args, **kwargs):
        output = own(*args, **kwargs)
        output.loss = output.loss + 0.1
        return output

    return forward


def called_in_its_own_hook(model):
    losses, inner = [], []

    def hook(*_):
        if not inner:
            inner.append(None)
            losses.append(model(**batch()).loss.item())

    handle = model.get_input_embeddings().register_forward_hook(hook)
    losses.append(model(**batch()).loss.item())
    handle.remove()
    return losses


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_call_within_a_call_of_a_covered_forward(taken_back, monkeypatch):
    results = []
    own = LlamaForCausalLM.forward
    for patched in (False, True):
        model = build()
        handle = patch(model) if patched else None
        with monkeypatch.context() as changed:
            changed.setattr(LlamaForCausalLM, "forward", plus_a_tenth(own))
            model.forward = wrapper_of(model)
            if patched and taken_back:
                handle.unpatch()
            results.append(called_in_its_own_hook(model))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def wrapper_of(model):
    inner = model.forward

    @wraps(inner)
    def forward(*args, **kwargs):
        return inner(*args, **kwargs)

    return forward


def test_a_wrapper_over_a_wrapper_has_what_the_inner_one_took(monkeypatch):
    results = []
    own = LlamaForCausalLM.forward
    for patched in (False, True):
        model, losses = build(), []
        if patched:
            patch(model)
        model.forward = wrapper_of(model)
        losses.append(model(**batch()).loss.item())
        with monkeypatch.context() as changed:
            changed.setattr(LlamaForCausalLM, "forward", plus_a_tenth(own))
            for _ in range(2):
                losses.append(model(**batch()).loss.item())
                model.forward = wrapper_of(model)
            losses.append(model(**batch()).loss.item())
        results.append(losses)
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[0] == pytest.approx(results[0][:1] * 4, rel=1e-5)


KEPT = {}


def by_accelerate(module):
    add_hook_to_module(module, ModelHook(), append=True)


def by_an_attribute(module):
    module.before = module.forward
    module.forward = MethodType(lambda self, *args, **kwargs: self.before(*args, **kwargs), module)


def by_a_table(module):
    KEPT[id(module)] = module.forward
    module.forward = lambda *args, **kwargs: KEPT[id(module)](*args, **kwargs)


@pytest.mark.parametrize("over", [by_accelerate, by_an_attribute, by_a_table])
@pytest.mark.parametrize("path", ALL)
def test_so_has_one_that_finds_the_inner_one_elsewhere(path, over):
    def steps(model):
        module = model.get_submodule(path)
        change = decorated(type(module).forward)
        module.forward = wrapper_of(module)
        found = [loss_and_gradients(model)]
        with class_forward(module, change):
            over(module)
            found.append(loss_and_gradients(model))
        return found

    assert_same_steps(steps)


def twice_by_accelerate(module):
    by_accelerate(module)
    return lambda: by_accelerate(module)


def renewed(module):
    taken = module.forward

    def renew():
        module.forward = lambda *args, **kwargs: taken(*args, **kwargs)

    renew()
    return renew


def twice_partial(module):
    module.forward = partial(module.forward)
    return lambda: setattr(module, "forward", partial(module.forward))


class Slots:
    __slots__ = ("taken",)

    def __init__(self, taken):
        self.taken = taken

    def __call__(self, *args, **kwargs):
        return self.taken(*args, **kwargs)


def by_slots(module):
    module.forward = Slots(module.forward)
    return lambda: None


@pytest.mark.parametrize("put", [twice_by_accelerate, renewed, twice_partial, by_slots])
@pytest.mark.parametrize("path", ALL)
def test_a_cover_that_is_renewed_has_what_the_first_one_took(path, put):
    def steps(model):
        module = model.get_submodule(path)
        change = decorated(type(module).forward)
        renew = put(module)
        found = [loss_and_gradients(model)]
        with class_forward(module, change):
            found.append(loss_and_gradients(model))
            renew()
            found.append(loss_and_gradients(model))
        return found

    assert_same_steps(steps)


class TakenFirst:
    """New forwards of a class that call what was taken of the module before, by other names."""

    @staticmethod
    def by_an_attribute(self, *args, **kwargs):
        with torch.profiler.record_function("forward"):
            return self._taken(*args, **kwargs)

    @staticmethod
    def by_a_table(self, *args, **kwargs):
        assert callable(super(type(self), self).forward)
        return KEPT[id(self)](*args, **kwargs)

    @staticmethod
    def by_a_holder(self, *args, **kwargs):
        return KEPT["holder"].taken.forward_of(*args, **kwargs)


@pytest.mark.parametrize("name", ["by_an_attribute", "by_a_table", "by_a_holder"])
def test_a_new_forward_that_calls_what_was_taken(name, monkeypatch):
    results = []
    for patched in (False, True):
        model = build()
        if patched:
            patch(model)
        results.append(loss_and_gradients(model))
        holder = SimpleNamespace(taken=SimpleNamespace(forward_of=model.forward))
        model._taken, KEPT[id(model)], KEPT["holder"] = model.forward, model.forward, holder
        with monkeypatch.context() as changed:
            changed.setattr(LlamaForCausalLM, "forward", getattr(TakenFirst, name))
            results.append(loss_and_gradients(model))
    for one in results[1:]:
        assert_same_step(one, results[0])
    KEPT.clear()
