"""The quick form of guards: it knows what nobody touched, and asks all that the guard asks."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from family_models import tiny
from liger_jit.patch import patch
from liger_jit.patch.guard import Guard, guard_of, parts_of
from liger_jit.patch.installed import installed_in
from liger_jit.patch.lookup import ABSENT
from liger_jit.patch.source.compared import function_of
from torch import nn

FAMILIES = ("llama", "mixtral", "gemma2", "phi", "gpt_oss", "olmo2")
CODE = (lambda: None).__code__


def patched(family):
    """[(module, guard)] of one model's patched modules, a class once."""
    model = tiny(family)[0]
    patch(model)
    found = {type(module): module for module in model.modules() if installed_in(module)}
    return [(module, installed_in(module).proof.guard) for module in found.values()]


def hooked() -> nn.Module:
    module = nn.SiLU()
    module.register_forward_hook(lambda *args: None)
    return module


def another(field: str, entry) -> list:
    """The entry, as it would be if something else had been seen."""
    if field == "codes":
        function, code, defaults = entry
        return [(function, CODE, defaults), (function, code, ("another",))]
    if field == "functions":
        cells = [
            replace(entry, cells=(*entry.cells[:i], (read, object()), *entry.cells[i + 1 :]))
            for i, (read, _) in enumerate(entry.cells)
        ]
        return [replace(entry, named_defaults={"another": 1}), *cells]
    if field == "children":
        name, child = entry
        return [(name, replace(child, forward=None)), ("another", child)]
    if field == "chosen":
        choose, guards = entry
        none = {name: replace(one, forward=None) for name, one in guards.items()}
        return [(choose, none), (choose, {})]
    if field == "tensors":
        return ["another"]
    if field == "made":
        return [hooked()]
    *where, value = entry
    others = [object(), ABSENT] if field == "values" else [object()]
    return [(*where, other) for other in others if other is not value]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quick_form_knows_what_nobody_touched(family):
    found = patched(family)
    assert found
    for module, guard in found:
        assert guard.holds(module), type(module)
        assert copy.deepcopy(module).forward.__self__ is not module
        assert guard.holds(copy.deepcopy(module)), type(module)


class Base(nn.Module):
    def inner(self, x):
        return x


class Plain(Base):
    scale = 2.0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.act = nn.SiLU()
        self.call = torch.relu

    def forward(self, x, *, more=1):
        return self.helper(x) * more

    def helper(self, x):
        return super().inner(x) * self.weight


def with_an_entry_of_each_kind() -> tuple[Plain, Guard]:
    module = Plain()
    own = Plain.forward
    return module, Guard(
        own,
        *parts_of([function_of(own), function_of(reader_of_a_cell(1.0))]),
        values=(("scale", 2.0), ("missing", ABSENT)),
        callables=(("call", torch.relu), ("inner", Base.inner)),
        methods=(("helper", Plain.helper),),
        inherited=((Plain, "inner", Base.inner),),
        defined=((Plain, "scale", 2.0), (Plain, "missing", None)),
        names=((globals(), "torch", torch), (globals(), "missing", None)),
        tensors=("weight",),
        children=(("act", guard_of(module.act)),),
        chosen=((lambda module: "a", {"a": Guard(own)}),),
        made=(nn.SiLU(),),
    )


def reader_of_a_cell(value):
    return lambda: value


def assert_asks_all(module, guard) -> set[str]:
    """The fields of which an entry was asked."""
    asked = set()
    assert not replace(guard, forward=None).holds(module)
    for field in fields(guard):
        entries = getattr(guard, field.name)
        for i, entry in enumerate(entries if type(entries) is tuple else ()):
            for other in another(field.name, entry):
                changed = {field.name: (*entries[:i], other, *entries[i + 1 :])}
                broken = replace(guard, **changed)
                assert not broken.holds(module), (type(module), field.name, entry)
                assert broken.broken(module) is not None
                asked.add(field.name)
    return asked


def test_a_quick_form_asks_all_that_a_guard_can():
    module, guard = with_an_entry_of_each_kind()
    assert guard.holds(module)
    tuples = {one.name for one in fields(guard) if type(getattr(guard, one.name)) is tuple}
    assert assert_asks_all(module, guard) == tuples


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quick_form_asks_all_that_the_guard_asks(family):
    for module, guard in patched(family):
        assert "codes" in assert_asks_all(module, guard)


def test_a_plain_parameter_is_asked_for_one_by_one():
    two = nn.Linear(2, 2)
    guard = Guard(nn.Linear.forward, tensors=("weight", "bias"))
    assert guard.holds(two)
    two.bias = None
    assert not guard.holds(two)
    assert guard.broken(two) == "bias is no plain parameter"


def test_equal_values_are_told_apart_from_others_by_the_guard_itself():
    module, guard = with_an_entry_of_each_kind()
    module.scale = float("2.0")
    assert guard.holds(module)
    module.scale = 2
    assert not guard.holds(module)
    assert guard.broken(module) == "scale is another"
