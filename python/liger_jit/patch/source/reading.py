"""What a forward depends on, read from its source: the whole of it, or it cannot be watched.

A forward that a guard is to watch may do arithmetic of a few kinds on tensors, read numbers and
functions of its module, and call functions that do the same. Whatever else stands in it (a write, a
branch on the input, an attribute found by its name's text, an operation that acts on some values
only) says that a probe has not seen all that it computes, and is refused by name.
"""

import ast
import builtins
import inspect
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, ModuleType

import torch
from torch import nn

from ..lookup import ABSENT, inherited
from ..probe import Mismatch
from .autocast_calls import ASKING, CASTING, asks_for_state, is_autocast, turns_off, watched
from .compared import Function, essence, function_of, is_immutable
from .definition import definition_of
from .known_tests import KnownTests
from .phrases import (
    STATEMENTS,
    TESTS,
    asks_for_none,
    first_line,
    has_changing_default,
    has_nested_calls,
    is_activation_table,
)
from .shape_lists import tensor_of
from .sizes import LIMITED, Kind, Sizes, is_rounding
from .torchs_own import is_constant, is_torchs, takes_inplace, torchs_name

LIBRARIES = ("torch", "math")
# What a formula of a norm, a gate or a rotation is made of: smooth, and the same for each element.
OPERATIONS = frozenset(
    "add cat chunk contiguous cos div double erf expand finfo flatten float gelu layer_norm mean "
    "mul neg permute pi pow repeat_interleave reshape rms_norm rsqrt sigmoid silu sin split "
    "sqrt square squeeze stack sub sum swish tanh to transpose type type_as unflatten unsqueeze "
    "view".split()
)
COMPLEX = frozenset({"view_as_complex", "view_as_real"})
# Of tensors, beside those.
FACTS = frozenset({"dtype", "shape", "ndim", "size", "dim", "device"})
BUILTINS = frozenset({"enumerate", "int", "float", "len", "tuple"})
# How many arguments a call may have whose source does not say it.
ANY_NUMBER = 100


@dataclass
class Reading:
    """What was read: see the fields of `Guard` with these names. called: children by name.
    by_width, moves: see `Sizes`. scales: a product of the forward itself, with a number.
    autocast: what it asks of autocast, or where it turns it off. asks_mode: whether it asks if it
    is in training. is_of_rank: it was read for tensors of so many dimensions as were said alone."""

    values: dict[str, object] = field(default_factory=dict)
    callables: dict[str, object] = field(default_factory=dict)
    methods: dict[str, Callable] = field(default_factory=dict)
    inherited: dict[tuple[type, str], Callable] = field(default_factory=dict)
    defined: dict[tuple[int, str], tuple[object, str, object]] = field(default_factory=dict)
    names: dict[tuple[int, str], tuple] = field(default_factory=dict)
    functions: dict[FunctionType, Function] = field(default_factory=dict)
    tensors: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    made: list[nn.Module] = field(default_factory=list)
    by_width: str = ""
    moves: str = ""
    scales: str = ""
    autocast: str = ""
    asks_mode: bool = False
    is_of_rank: bool = False


def read(
    module: nn.Module | None,
    forward: Callable,
    count: int = 1,
    autocast: bool = False,
    rank: int | None = None,
) -> Reading:
    """Raises Mismatch that names what cannot be watched. Runs nothing of the module.

    forward: of the module's class, or a function of tensors if there is no module. count: how many
    tensors each call gives it, which are then not None. autocast: it is tried in each state of
    autocast, so that it may ask for that. rank: how many dimensions these have, if the forward asks
    for that: see `Reading.is_of_rank`.
    """
    reading = Reading()
    _Reader(module, reading, count, rank).function(forward, bound=module is not None, top=True)
    if reading.autocast and not autocast:
        raise Mismatch(f"{forward.__qualname__} depends on autocast: {reading.autocast}")
    if reading.asks_mode:
        raise Mismatch(f"{forward.__qualname__} asks whether it is in training")
    if reading.by_width and reading.moves:
        raise Mismatch(
            f"{forward.__qualname__} needs its last dimension ({reading.by_width}), and may have "
            f"made another one the last ({reading.moves})"
        )
    return reading


class _Reader:
    def __init__(self, module: nn.Module | None, reading: Reading, count: int, rank: int | None):
        self.module, self.reading, self.count, self.rank = module, reading, count, rank
        self.gives_parts: set[FunctionType] = set()

    def function(self, function: Callable, bound: bool = False, top: bool = False) -> None:
        """Reads a function's source; a bound one has the module for its first argument. `top` is
        the forward, which gets its tensors and nothing else."""
        if hasattr(function, "__wrapped__"):
            raise Mismatch(f"{function.__qualname__} is decorated, and its decorator is not read")
        if function in self.reading.functions:
            return
        if not isinstance(function, FunctionType):
            raise Mismatch(f"{function!r} is no Python function, and cannot be read")
        definition = definition_of(function)
        if definition is None:
            raise Mismatch(f"the source of {function.__qualname__} is not there")
        if has_changing_default(function):
            raise Mismatch(f"{function.__qualname__} has a default that can be changed")
        self.reading.functions[function] = function_of(function)
        body = _Body(self, function, definition, bound, top)
        body.run()
        self.reading.by_width = self.reading.by_width or body.sizes.by_width
        self.reading.moves = self.reading.moves or body.sizes.moves
        self.reading.is_of_rank |= body.known.is_rank_known
        if body.returned == {Kind.PARTS}:
            self.gives_parts.add(function)


class _Body:
    """One function's statements."""

    def __init__(self, reader: _Reader, function: FunctionType, definition, bound: bool, top: bool):
        self.reader, self.module, self.reading = reader, reader.module, reader.reading
        self.function, self.definition = function, definition
        names = list(inspect.signature(function).parameters)
        self.own = names[0] if bound and names else None
        parameters = inspect.signature(function).parameters.values()
        self.top = top
        self.locals = {*function.__code__.co_varnames, *function.__code__.co_cellvars}
        covered = self.locals | function.__globals__.keys()
        given = set(names[bound : bound + reader.count]) if top else set()
        self.known = KnownTests(definition, self.own, given, reader.rank, self.library, covered)
        optional = {p.name for p in parameters if p.default is None} if top else set()
        # Nobody passes the others: calls with more arguments go to the module's own forward.
        self.known.present, self.known.absent = optional & given, optional - given
        closure = zip(function.__code__.co_freevars, function.__closure__ or ())
        self.cells = {name: cell.cell_contents for name, cell in closure}
        self.sizes = Sizes(self.refuse)
        self.returned: set[Kind] = set()
        if not top:  # calls inside a forward give it so many arguments as they say
            more = (p.name for p in parameters if p.kind is p.VAR_POSITIONAL)
            self.sizes.names |= dict.fromkeys(more, Kind.PARTS)

    def refuse(self, what: str) -> None:
        raise Mismatch(f"{self.function.__qualname__} {what}")

    def run(self) -> None:
        self.statements(self.definition.body)

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, one: ast.stmt) -> None:
        if not isinstance(one, STATEMENTS):
            self.refuse(f"has a statement that a probe may not see the whole of: {first_line(one)}")
        if isinstance(one, ast.Raise):
            if has_nested_calls(one):
                self.refuse(f"calls in {first_line(one)}")
            return
        if isinstance(one, ast.If):
            return self.branch(one)
        if isinstance(one, ast.With):
            return self.without_autocast(one)
        targets = one.targets if isinstance(one, ast.Assign) else []
        if isinstance(one, ast.AnnAssign):
            targets = [one.target]
        value = getattr(one, "value", None)
        for target in targets:
            self.target(target)
            self.known.assign(target, value)
        if value is None:
            return
        kind = self.value(value)
        if isinstance(one, ast.Return):
            self.sizes.plain(value, kind)
            self.returned.add(kind)
        for target in targets:
            self.sizes.assign(target, kind)

    def without_autocast(self, one: ast.With) -> None:
        """A block for which autocast is off, and nothing else."""
        for item in one.items:
            call = item.context_expr
            context = self.context(call.func) if turns_off(item) else None
            if not is_autocast(context):
                self.refuse(f"has statements in a context of unknown effect: {first_line(one)}")
            for part in (*call.args, *(named.value for named in call.keywords)):
                self.value(part)
            if isinstance(context, FunctionType):
                function, names = watched(context)
                self.reading.functions[context] = function
                self.reading.names |= {(id(scope), n): (scope, n, v) for scope, n, v in names}
        self.reading.autocast = first_line(one)
        self.statements(one.body)

    def context(self, function: ast.expr) -> object:
        """What is called there, if it has a name of the file or of torch."""
        if isinstance(function, ast.Name) and function.id not in self.locals:
            return self.found(function.id)
        library = self.library(getattr(function, "value", None))
        return None if library is None else getattr(library, function.attr, None)

    def target(self, target: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                # `*leading, last`, and no other: what a list has is not asked for one by one.
                leads = isinstance(part, ast.Starred) and [part] == target.elts[:-1]
                self.target(part.value if leads else part)
        elif not isinstance(target, ast.Name):
            self.refuse(f"writes {ast.unparse(target)}")

    def branch(self, one: ast.If | ast.IfExp) -> Kind | None:
        """A branch on what is not there takes the one way; one on the module's numbers takes both
        into account; one on the input says that some inputs were not tried."""
        taken = self.known.outcome(one.test)
        run = self.statements if isinstance(one, ast.If) else self.value
        for part in self.known.unknown_in(one.test):
            self.test(part)
        if taken is not None:
            return run(one.body if taken else one.orelse)
        before = dict(self.sizes.names)
        kind, names = run(one.body), self.sizes.names
        self.sizes.names = before
        other = run(one.orelse)
        self.sizes.names = self.sizes.joined(names, self.sizes.names)
        return None if isinstance(one, ast.If) else self.sizes.chosen(one, kind, other)

    def test(self, test: ast.expr) -> None:
        # The dtype of a parameter is one that was tried: who replaces what reads it asks for that.
        of_dtype = {node.value for node in ast.walk(test) if self.is_dtype_of_parameter(node)}
        if asks_for_state(asked := test.operand if isinstance(test, ast.UnaryOp) else test):
            self.value(asked)
            return
        for node in ast.walk(test):
            if node in of_dtype:
                continue
            if isinstance(node, ast.Name) and node.id in self.locals and node.id != self.own:
                self.refuse(f"branches on its input: {ast.unparse(test)}")
            if isinstance(node, ast.Call):
                self.refuse(f"branches on a call: {ast.unparse(test)}")
            if isinstance(node, ast.Attribute) and self.is_tensor(node) and not asks_for_none(test):
                self.refuse(f"branches on a tensor: {ast.unparse(test)}")
            if isinstance(node, ast.expr) and not isinstance(node, TESTS):
                self.refuse(f"branches on {ast.unparse(test)}")
        inner = {node.value for node in ast.walk(test) if isinstance(node, ast.Attribute)}
        for node in ast.walk(test):
            if isinstance(node, (ast.Attribute, ast.Name)) and node not in inner:
                if not (isinstance(node, ast.Name) and node.id == self.own):
                    self.value(node)

    def is_dtype_of_parameter(self, node: ast.AST) -> bool:
        named = isinstance(node, ast.Attribute) and node.attr == "dtype"
        return named and self.is_tensor(node.value) and node.value.attr in self.module._parameters

    def is_tensor(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == self.own
            and (node.attr in self.module._parameters or node.attr in self.module._buffers)
        )

    def value(self, node: ast.expr) -> Kind:
        self.sizes.seen[node] = kind = self.kind_of(node)
        return kind

    def kind_of(self, node: ast.expr) -> Kind:
        if isinstance(node, ast.Constant):
            return Kind.NUMBER
        if isinstance(node, ast.Name):
            return self.name(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.IfExp):
            return self.branch(node)
        if isinstance(node, ast.ListComp) and self.lists_sizes(node):
            return Kind.PLACES
        parts = (
            ast.BinOp, ast.UnaryOp, ast.Tuple, ast.List, ast.Subscript, ast.Slice, ast.Starred,
        )  # fmt: skip
        chosen = isinstance(node, ast.Subscript) and isinstance(node.value, (ast.Tuple, ast.List))
        if not isinstance(node, parts) or chosen or isinstance(getattr(node, "op", None), ast.Not):
            self.refuse(f"has a part that a probe may not see the whole of: {first_line(node)}")
        kinds = [self.value(one) for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
        if isinstance(node, ast.BinOp):
            if self.top and isinstance(node.op, (ast.Mult, ast.Div)) and self.is_scale(node, kinds):
                self.reading.scales = first_line(node)
            return self.sizes.binary(node, *kinds)
        if isinstance(node, ast.UnaryOp):
            return self.sizes.unary(node, *kinds)
        if isinstance(node, ast.Subscript):
            return self.sizes.subscript(node, kinds[0])
        if isinstance(node, ast.Starred):
            return self.sizes.spread(node, *kinds)
        return self.sizes.several(kinds)

    def lists_sizes(self, node: ast.ListComp) -> bool:
        """Whether it is a shape of that kind. A function of tensors has heads of as many
        dimensions as a probe had, so that it is the same for each place."""
        tensor = tensor_of(node, self.definition)
        if self.module is not None or tensor is None or self.value(tensor) is not Kind.VALUE:
            return False
        return self.found("enumerate") is enumerate

    def is_scale(self, node: ast.BinOp, kinds: list[Kind]) -> bool:
        """Whether one side is a number, and may be another than 1, and the other no size."""
        if (kinds[0] is Kind.NUMBER) == (kinds[1] is Kind.NUMBER) or Kind.GROUPS in kinds:
            return False
        number = node.left if kinds[0] is Kind.NUMBER else node.right
        if isinstance(number, ast.Attribute):
            return self.reading.values.get(number.attr) != 1
        return not isinstance(number, ast.Constant) or number.value != 1

    def name(self, name: str) -> Kind:
        if name == self.own:
            self.refuse("hands on its module")
        if name in self.locals:
            return self.sizes.name(name)
        return self.number(name, self.found(name))

    def number(self, name: str, value: object) -> Kind:
        if not is_immutable(value):
            self.refuse(f"reads {name}, which may change")
        if is_rounding(value):
            self.refuse(f"uses {value}, which rounds")
        return Kind.NUMBER

    def found(self, name: str) -> object:
        """A name of the closure, of the file or of Python, which the guard will watch."""
        if name in self.cells:
            return self.cells[name]
        if name.startswith("__") and not name.endswith("__"):
            self.refuse(f"reads {name}, which may have another name in its class")
        scope = self.function.__globals__
        if name in scope:
            self.reading.names[id(scope), name] = (scope, name, scope[name])
            return scope[name]
        if name not in BUILTINS:
            self.refuse(f"uses {name}")
        self.reading.names[id(scope), name] = (scope, name, None)  # nobody has covered it
        return getattr(builtins, name)

    def attribute(self, node: ast.Attribute, more: Container[str] = ()) -> Kind:
        base = node.value
        if isinstance(base, ast.Name) and base.id == self.own:
            return self.own_attribute(node.attr)
        library = self.library(base)
        if library is not None:
            value = getattr(library, node.attr, None)
            if is_constant(value, node.attr):
                return self.number(ast.unparse(node), value)
            if node.attr not in OPERATIONS and node.attr not in more:
                self.refuse(f"uses {ast.unparse(node)}")
            if not isinstance(value, type):
                self.torchs(value, node)
            return Kind.VALUE
        if node.attr not in FACTS and node.attr not in OPERATIONS:
            self.refuse(f"uses .{node.attr}")
        if callable(method := getattr(torch.Tensor, node.attr, None)):
            self.torchs(method, node)
        return self.sizes.fact(node, self.value(base))

    def torchs(self, function: object, node: ast.Attribute) -> None:
        if not is_torchs(function, node.attr):
            self.refuse(f"uses {ast.unparse(node)}, which is not torch's own")

    def library(self, node: ast.expr) -> ModuleType | None:
        """The module of torch or of Python's mathematics that a dotted name stands for."""
        if isinstance(node, ast.Attribute):
            outer = self.library(node.value)
            inner = None if outer is None else getattr(outer, node.attr, None)
            # Exactly: torch.ops makes modules of what others registered.
            return inner if type(inner) is ModuleType else None
        if not isinstance(node, ast.Name) or node.id in self.locals or node.id in self.cells:
            return None
        value = self.function.__globals__.get(node.id)
        if not isinstance(value, ModuleType) or value.__name__.split(".")[0] not in LIBRARIES:
            return None
        self.found(node.id)
        return value

    def own_attribute(self, name: str) -> Kind:
        module, reading = self.module, self.reading
        if name == "training":
            reading.asks_mode = True
            return Kind.NUMBER
        if name.startswith("__"):
            self.refuse(f"reads {name}, which has another name in its class")
        for place in (module._parameters, module._buffers):
            if name in place:
                if hasattr(type(module), name):
                    self.refuse(f"reads {name}, for which its class stands in")
                if place[name] is None:
                    reading.values[name] = None
                elif place is module._buffers:
                    self.refuse(f"reads the buffer {name}")
                else:
                    reading.tensors.add(name)
                return Kind.VALUE
        if name in module._modules:
            self.refuse(f"reads its child {name}")
        if name in module.__dict__:
            return self.own_value(name, module.__dict__[name])
        found = inspect.getattr_static(type(module), name, ABSENT)
        reading.values[name] = found
        return Kind.NUMBER if found is ABSENT else self.number(name, found)

    def own_value(self, name: str, value: object) -> Kind:
        self.reading.values[name] = value
        return self.number(f"{name}, a {type(value).__name__}", value)

    def call(self, node: ast.Call) -> Kind:
        for one in node.keywords:
            self.keyword(one)
        given = [(part, self.value(part)) for part in node.args]
        named = {one.arg: (one.value, self.value(one.value)) for one in node.keywords}
        function = node.func
        if isinstance(function, ast.Name) and function.id not in self.locals:
            value = self.found(function.id)
            self.call_of(value, function.id)
            self.positions(node, value)
            if function.id in BUILTINS and value is getattr(builtins, function.id):
                return self.sizes.converted(node, function.id, [kind for _, kind in given])
            return self.result(node, value, given, named)
        if isinstance(function, ast.Subscript):
            self.made_call(function)
            return self.sizes.no_sizes(given, named)
        if not isinstance(function, ast.Attribute):
            return self.refuse(f"calls {first_line(function)}")
        base = function.value
        if isinstance(base, ast.Name) and base.id == self.own:
            value = self.own_call(function.attr)
            self.positions(node, value)
            return self.result(node, value, given, named)
        if isinstance(base, ast.Call) and ast.unparse(base) == "super()":
            self.inherited_call(function.attr)
            return self.sizes.no_sizes(given, named)
        # Of what a forward was given both sides of zero are seen by every probe. A function of
        # tensors has heads of as many dimensions as a probe had.
        more = {"relu"} if self.takes_what_was_given(node) else set()
        self.attribute(function, more | {*ASKING, CASTING} if self.module else COMPLEX)
        if (library := self.library(base)) is not None:
            if function.attr in ASKING or function.attr == CASTING:
                return self.asked_of_autocast(node, given)
            self.positions(node, getattr(library, function.attr, None))
            return self.sizes.function(node, function.attr, given, named)
        return self.sizes.operation(node, function.attr, given, named)

    def asked_of_autocast(self, node: ast.Call, given: list) -> Kind:
        """The state, or the first argument as that wants it."""
        self.reading.autocast = first_line(node)
        return given[0][1] if given and node.func.attr == CASTING else Kind.VALUE

    def takes_what_was_given(self, node: ast.Call) -> bool:
        """Whether the call's one argument is the forward's own, as it came."""
        if not self.top or node.keywords or [type(one) for one in node.args] != [ast.Name]:
            return False
        name = node.args[0].id
        stored = (one for one in ast.walk(self.definition) if isinstance(one, ast.Name))
        written = any(one.id == name and isinstance(one.ctx, ast.Store) for one in stored)
        parameters = inspect.signature(self.function).parameters
        return name in parameters and name != self.own and not written

    def result(self, node: ast.Call, function: object, given: list, named: dict) -> Kind:
        inner = function.func if type(function) is partial else function
        if torchs_name(inner) is None:
            kind = self.sizes.no_sizes(given, named)
            return Kind.PARTS if inner in self.reader.gives_parts else kind
        if inner is not function and inner.__name__ in LIMITED:
            self.refuse(f"calls a partial {inner.__name__}")
        return self.sizes.function(node, inner.__name__, given, named)

    def positions(self, node: ast.Call, function: object) -> None:
        """The same, said without a name."""
        before = 0
        if type(function) is partial:
            before, function = len(function.args), function.func
        spread = any(isinstance(one, ast.Starred) for one in node.args)
        if takes_inplace(function, before + (ANY_NUMBER if spread else len(node.args))):
            self.refuse(f"works in place: {first_line(node)}")

    def keyword(self, one: ast.keyword) -> None:
        """Operations that write are named like those that do not."""
        if one.arg in (None, "out"):
            self.refuse(f"calls with {ast.unparse(one)}")
        if one.arg == "inplace":
            own = isinstance(one.value, ast.Attribute) and ast.unparse(one.value.value) == self.own
            value = getattr(self.module, one.value.attr, True) if own else True
            if (one.value.value if isinstance(one.value, ast.Constant) else value) is not False:
                self.refuse("works in place")

    def call_of(self, value: object, name: str, bound: bool = False) -> None:
        if type(value) is partial:
            if not all(map(is_immutable, (*value.args, *value.keywords.values()))):
                self.refuse(f"calls {name} with values that may change")
            if value.keywords.get("inplace", False) is not False:
                self.refuse(f"calls {name}, which works in place")
            return self.call_of(value.func, name)
        own = torchs_name(value)
        if isinstance(value, FunctionType) and own is None:
            return self.reader.function(value, bound)
        if own in OPERATIONS:
            return
        if name not in BUILTINS or value is not getattr(builtins, name):
            self.refuse(f"calls {name}")

    def own_call(self, name: str) -> object:
        """What is called, if it is an attribute of the module that is no child."""
        module, reading = self.module, self.reading
        if name in module._modules:
            reading.called.add(name)
        elif name in module.__dict__:
            value = module.__dict__[name]
            bound = type(value) is MethodType and value.__self__ is module
            reading.callables[name] = essence(value, module)
            self.call_of(value.__func__ if bound else value, name, bound)
            return value
        else:
            found = inspect.getattr_static(type(module), name, None)
            if not isinstance(found, FunctionType) or found is vars(nn.Module).get(name):
                self.refuse(f"calls {name}")
            reading.methods[name] = found
            self.reader.function(found, bound=True)
        return None

    def made_call(self, function: ast.Subscript) -> None:
        """Of what a table of activations makes at each look: the guard watches all that makes it,
        so what is made later is what is made now."""
        table = self.function.__globals__.get(ast.unparse(function.value))
        key = self.value_of(function.slice)
        if not is_activation_table(table) or key not in table:
            self.refuse(f"calls {first_line(function)}")
        self.found(ast.unparse(function.value))
        self.reading.names[id(table), key] = (table, key, dict.get(table, key))
        self.reading.defined[id(table), "__class__"] = (table, "__class__", type(table))
        self.defined(type(table), "__getitem__")
        made = table[key]
        self.defined(type(made), "__init__")
        self.defined(type(made), "forward")
        found = read(made, type(made).forward)
        more = (found.tensors, found.called, found.made, found.callables, found.methods)
        more += (found.inherited,)
        if any(more) or not vars(made).keys() >= found.values.keys():
            self.refuse(f"calls {first_line(function)}, which is more than an activation")
        self.reading.functions |= found.functions
        self.reading.names |= found.names
        self.reading.made.append(made)

    def value_of(self, node: ast.expr) -> object:
        """Of a text that stands there, or that the module has; None of all else."""
        if isinstance(node, ast.Constant):
            return node.value
        own = isinstance(node, ast.Attribute) and ast.unparse(node.value) == self.own
        if not own or self.value(node) is not Kind.NUMBER:
            return None
        return self.reading.values[node.attr]

    def defined(self, kind: type, name: str) -> None:
        """Watches which function a class has by that name, and what that does."""
        found = getattr(kind, name)
        self.reading.defined[id(kind), name] = (kind, name, found)
        if isinstance(found, FunctionType):
            self.reading.functions.setdefault(found, function_of(found))

    def inherited_call(self, name: str) -> None:
        owner, kind = self.cells.get("__class__"), type(self.module)
        found = inherited(owner, kind, name) if owner else None
        if not isinstance(found, FunctionType):
            self.refuse(f"calls super().{name}")
        self.reading.inherited[owner, name] = found
        self.reader.function(found, bound=True)
