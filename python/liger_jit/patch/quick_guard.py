"""A guard's quick form: a function written for the very guard, for the calls that find all of it.

`Guard.broken` asks for one thing after the other, and says what is another. Nearly always nothing
is, and each thing is the very object that was seen. So each guard has a function with all of them
as constants and identity as the only comparison, which takes a third of the time. It may say no
where the guard holds, and then `broken` is asked, as it is by torch.compile; it never says yes
where the guard does not hold.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .lookup import ABSENT, GETATTR, GETATTR_CODE, GETATTRIBUTE, inherited
from .source.compared import essence, is_same

HOLDERS = ("_parameters", "_buffers", "_modules")


def quick_form(guard: Any, is_plain: Callable, is_hooked: Callable) -> Callable:
    """`holds(module)`: whether the module is what this `Guard`, with these two functions of its
    file, has seen, as far as identity tells."""
    form = _Form()
    for name, what in (("is_plain", is_plain), ("is_hooked", is_hooked)):
        form.scope[name] = what
    form.of_module(guard, "module")
    body = "\n        ".join(form.lines)
    source = f"def holds(module):\n    try:\n        {body}\n        return True\n"
    # What is missing raises, and so may a user's attribute: then it is asked again, slowly.
    source += "    except Exception:\n        return False\n"
    exec(source, form.scope)
    return form.scope["holds"]


class _Form:
    """lines: the function's body so far. scope: its constants, by name."""

    def __init__(self):
        self.lines: list[str] = []
        self.scope: dict[str, object] = {
            "essence": essence,
            "inherited": inherited,
            "is_same": is_same,
            "Parameter": nn.Parameter,
            "strided": torch.strided,
        }

    def constant(self, value: object) -> str:
        for name, one in self.scope.items():
            if one is value:
                return name
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def ask(self, condition: str) -> None:
        line = f"if not ({condition}): return False"
        if line not in self.lines:
            self.lines.append(line)

    def is_seen(self, expression: str, value: object) -> None:
        self.ask(f"{expression} is {self.constant(value)}")

    def is_in(self, scope: dict, name: str, value: object) -> None:
        found = f"[{name!r}]" if value is not None else f".get({name!r})"
        self.is_seen(self.constant(scope) + found, value)

    def of_module(self, guard: Any, module: str) -> None:
        kind, held = f"kind_of_{module}", f"held_by_{module}"
        self.lines += [f"{kind} = type({module})", f"{held} = {module}.__dict__"]
        self.is_seen(f"{kind}.forward", guard.forward)
        absent = [name for name, value in guard.values if value is ABSENT]
        if guard.tensors or guard.children or guard.methods or absent:
            self.looks_up_as_torch(kind)
        self.of_functions(guard)
        for name, value in guard.values:
            if value is ABSENT:
                holders = [held, *(f"{held}[{each!r}]" for each in HOLDERS)]
                self.ask(" and ".join(f"{name!r} not in {each}" for each in holders))
                self.ask(f"not hasattr({kind}, {name!r})")
            else:
                seen = self.constant(value)
                self.ask(f"(value := {module}.{name}) is {seen} or is_same(value, {seen})")
        for name, value in guard.callables:
            self.ask(f"is_same(essence({module}.{name}, {module}), {self.constant(value)})")
        for name, function in guard.methods:
            self.ask(f"{name!r} not in {held}")
            self.is_seen(f"{kind}.{name}", function)
        for owner, name, function in guard.inherited:
            self.is_seen(f"inherited({self.constant(owner)}, {kind}, {name!r})", function)
        for owner, name, value in guard.defined:
            self.is_seen(f"getattr({self.constant(owner)}, {name!r}, None)", value)
        for scope, name, value in guard.names:
            self.is_in(scope, name, value)
        for name in guard.tensors:
            self.ask(f"{name!r} not in {held} and not hasattr({kind}, {name!r})")
            found = f"(tensor := {held}['_parameters'][{name!r}])"
            ordinary = f"type({found}) is Parameter and tensor.layout is strided"
            self.ask(f"{ordinary} or is_plain(tensor)")
        for name, child in guard.children:
            self.ask(f"{name!r} not in {held} and not hasattr({kind}, {name!r})")
            inner = f"{module}_{len(self.lines)}"
            self.lines.append(f"{inner} = {held}['_modules'][{name!r}]")
            self.of_module(child, inner)
            self.ask(f"'forward' not in {inner}.__dict__ and not is_hooked({inner})")
        for choose, guards in guard.chosen:
            chosen = f"{self.constant(guards)}[{self.constant(choose)}({module})]"
            self.ask(f"{chosen}.holds({module})")
        for made in guard.made:
            self.ask(f"not is_hooked({self.constant(made)})")

    def of_functions(self, guard: Any) -> None:
        for function, code, defaults in guard.codes:
            name = self.constant(function)
            self.is_seen(f"{name}.__code__", code)
            self.is_seen(f"{name}.__defaults__", defaults)
        for one in guard.functions:
            named = f"{self.constant(one.function)}.__kwdefaults__"
            if one.named_defaults:
                self.ask(f"is_same({named}, {self.constant(one.named_defaults)})")
            else:
                self.ask(f"not {named}")
            for read, value in one.cells:
                (cell,) = read.__closure__
                self.is_seen(f"{self.constant(cell)}.cell_contents", value)

    def looks_up_as_torch(self, kind: str) -> None:
        """Not `looks_up_itself`: a call of it costs as much as the guard of a norm may."""
        self.is_seen(f"{kind}.__getattr__", GETATTR)
        self.is_seen(f"{self.constant(GETATTR)}.__code__", GETATTR_CODE)
        self.is_seen(f"{kind}.__getattribute__", GETATTRIBUTE)
