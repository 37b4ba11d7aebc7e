"""Whether running a forward in a probe leaves anything behind, read from its source.

A layer's forward stays its own, so it may compute what it likes; but a probe runs it on a twin that
shares what the layer holds with the layer. So it may write to names of its own and nothing else,
call its children, functions of torch and functions of which all that holds as well, and take from
its module what nobody can write to: children, parameters, numbers. What cannot be read is refused
by name, and was not run.
"""

import ast
import builtins
import copy
import inspect
from collections.abc import Container
from types import FunctionType, ModuleType

from torch import Tensor, nn
from torch.nn import functional

from ..probe import Mismatch
from .compared import is_immutable
from .definition import NO_SOURCE, definition_of, innermost
from .phrases import first_line, has_changing_default, has_nested_calls
from .reading import LIBRARIES
from .torchs_own import CALL, takes_inplace, torchs_name

STATEMENTS = (
    ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.If, ast.Pass, ast.Assert,
)  # fmt: skip
EXPRESSIONS = (
    ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List,
    ast.Subscript, ast.Slice, ast.Starred,
)  # fmt: skip
# What a test is made of that the module's own numbers decide.
DECIDING = (
    ast.Attribute, ast.Name, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Not,
    ast.And, ast.Or, ast.cmpop, ast.expr_context,
)  # fmt: skip
BUILTINS = frozenset("abs bool float int isinstance len max min slice tuple".split())
# Functions of torch that tensors have not as methods.
MAKING = frozenset("arange cat empty full ones stack tensor zeros".split())
# Of tensors, besides what torch marks as writing: what reaches another tensor or a hook.
REACHING = frozenset(
    "backward register_hook register_post_accumulate_grad_hook retain_grad".split()
)
OF_KEYWORDS = frozenset({"get", "pop"})


def read_effects(
    module: nn.Module,
    forward: FunctionType,
    stood_in: Container[str],
    body: list[ast.stmt] | None = None,
) -> None:
    """Raises Mismatch that names what may write. Runs nothing of the module.

    Args:
        forward: of the module's class, without its decorators.
        stood_in: children that others stand in for.
        body: those of its statements that are run, if not all are.
    """
    _Effects(module, stood_in, set()).function(forward, bound=True, body=body)


class _Effects:
    """seen: functions that were read, or are being read."""

    def __init__(self, module: nn.Module | None, stood_in: Container[str], seen: set):
        self.module, self.stood_in, self.seen = module, stood_in, seen

    def function(
        self, function: object, bound: bool = False, body: list[ast.stmt] | None = None
    ) -> None:
        key = function, id(self.module) if bound else None
        if key in self.seen:
            return
        top = not self.seen  # a probe makes what the forward itself is given
        self.seen.add(key)
        name = getattr(function, "__qualname__", repr(function))
        if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
            raise Mismatch(f"{name} is run by a probe, and is no plain Python function")
        definition = definition_of(function)
        if definition is None:
            raise Mismatch(f"{name} is run by a probe: {NO_SOURCE}")
        if has_changing_default(function):
            raise Mismatch(f"{name} is run by a probe, and has a default that it may write to")
        body = definition.body if body is None else body
        _FunctionEffects(self, function, bound, top).run(body)

    def child(self, name: str) -> None:
        child = self.module._modules[name]
        if child is None or name in self.stood_in:
            return
        if type(child).__call__ is not CALL:
            raise Mismatch(f"{name} is called in a way of its own")
        _Effects(child, (), self.seen).function(innermost(type(child).forward), bound=True)


class _FunctionEffects:
    """One function's statements."""

    def __init__(self, reader: _Effects, function: FunctionType, bound: bool, top: bool):
        self.reader, self.module, self.function = reader, reader.module, function
        self.own = next(iter(inspect.signature(function).parameters), None) if bound else None
        self.locals = set(function.__code__.co_varnames)
        parameters = inspect.signature(function).parameters.values()
        self.keywords = {one.name for one in parameters if one.kind is one.VAR_KEYWORD}
        # What is written to in place: its name must never have been that of another's tensor.
        self.written: dict[str, str] = {}
        self.taken = set() if top else {one.name for one in parameters}
        closure = zip(function.__code__.co_freevars, function.__closure__ or ())
        self.cells = {name: cell for name, cell in closure}

    def refuse(self, what: str) -> None:
        raise Mismatch(
            f"a probe would run {self.function.__qualname__}, which may leave something behind: "
            f"{what}"
        )

    def run(self, body: list[ast.stmt]) -> None:
        self.statements(body)
        for name in self.taken & set(self.written):
            self.refuse(self.written[name])

    def statements(self, body: list[ast.stmt]) -> None:
        for one in body:
            self.statement(one)

    def statement(self, one: ast.stmt) -> None:
        if isinstance(one, ast.Raise):
            if has_nested_calls(one):
                self.refuse(first_line(one))
            return
        if not isinstance(one, STATEMENTS):
            self.refuse(first_line(one))
        if isinstance(one, ast.If):
            return self.branch(one)
        for target in getattr(one, "targets", None) or [getattr(one, "target", None)]:
            self.target(target)
            if isinstance(one, ast.AugAssign):
                self.written[ast.unparse(target)] = first_line(one)
            elif target is not None and not self.is_new(one.value, target):
                self.taken |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        for part in (getattr(one, "test", None), getattr(one, "value", None)):
            if part is not None:
                self.value(part)

    def branch(self, one: ast.If) -> None:
        """What the module's own numbers decide takes the one way."""
        taken = self.decided(one.test)
        if taken is None:
            self.value(one.test)
        if taken is not False:
            self.statements(one.body)
        if taken is not True:
            self.statements(one.orelse)

    def decided(self, test: ast.expr) -> bool | None:
        """The outcome of a test that asks for nothing but these."""
        if not all(isinstance(node, DECIDING) for node in ast.walk(test)):
            return None
        asked = Asked(self.own, self.module)
        test = ast.fix_missing_locations(asked.visit(ast.Expression(copy.deepcopy(test))))
        if asked.failed:
            return None
        return bool(eval(compile(test, "<test>", "eval"), {"__builtins__": {}, **asked.values}))

    def target(self, target: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self.target(part)
        elif isinstance(target, ast.Starred):
            self.target(target.value)
        elif target is not None and not (
            isinstance(target, ast.Name) and target.id in self.locals and target.id != self.own
        ):
            self.refuse(f"it writes {ast.unparse(target)}")

    def is_new(self, value: ast.expr | None, target: ast.expr) -> bool:
        """Whether a target gets nothing that somebody else holds as well: a result of arithmetic,
        a tuple, or what a child gives that is stood in for."""
        if isinstance(target, ast.Name) and isinstance(value, (ast.BinOp, ast.Tuple)):
            return True
        function = value.func if isinstance(value, ast.Call) else None
        if not isinstance(function, ast.Attribute) or self.own is None:
            return False
        child = self.module._modules.get(function.attr)
        named = ast.unparse(function.value) == self.own and function.attr in self.reader.stood_in
        # A dropout of probability 0 gives what it is given.
        return named and not isinstance(child, nn.Dropout)

    def value(self, node: ast.expr) -> None:
        if isinstance(node, ast.Name):
            return self.name(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if not isinstance(node, EXPRESSIONS):
            self.refuse(first_line(node))
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self.value(part)

    def name(self, name: str) -> None:
        if name == self.own:
            self.refuse("it hands on its module")
        if name in self.locals:
            return
        if not is_immutable(self.found(name)):
            self.refuse(f"it uses {name}")

    def found(self, name: str) -> object:
        if name in self.cells:
            try:
                return self.cells[name].cell_contents
            except ValueError:
                return self.refuse(f"it uses {name}")
        scope = self.function.__globals__
        if name in scope:
            return scope[name]
        return getattr(builtins, name) if name in BUILTINS else self.refuse(f"it uses {name}")

    def attribute(self, node: ast.Attribute) -> None:
        root = self.root(node)
        if root == self.own is not None:
            known = self.is_of_module(node)
        elif (library := self.library(node)) is not None:
            known = is_immutable(library)
        else:
            known = root is None or root in self.locals
            known = known and hasattr(Tensor, node.attr) and not node.attr.startswith("__")
            self.value(node.value)
        if not known:
            self.refuse(f"it uses {ast.unparse(node)}")

    def root(self, node: ast.expr) -> str | None:
        while isinstance(node, ast.Attribute):
            node = node.value
        return node.id if isinstance(node, ast.Name) else None

    def is_of_module(self, node: ast.Attribute) -> bool:
        """Whether a dotted name of the module is a tensor, or a number that runs no property."""
        *path, last = ast.unparse(node).split(".")[1:]
        holder = self.module
        for name in path:
            if name in (*holder._parameters, *holder._buffers) and len(path) == 1:
                return hasattr(Tensor, last) and not hasattr(type(holder), name)
            holder = vars(holder).get(name)
            if holder is None or not hasattr(holder, "__dict__") or isinstance(holder, nn.Module):
                return False
        if last in vars(holder):
            value = vars(holder)[last]
            return is_immutable(value) and not (last == "inplace" and value)
        if holder is not self.module:
            return False
        if last in holder._parameters or last in holder._buffers:
            return not hasattr(type(holder), last)
        return is_immutable(inspect.getattr_static(type(holder), last, self))

    def library(self, node: ast.expr) -> object:
        """What of torch or of Python's mathematics a dotted name stands for."""
        if isinstance(node, ast.Attribute):
            outer = self.library(node.value)
            is_library = type(outer) in (ModuleType, type)
            return getattr(outer, node.attr, None) if is_library else None
        if not isinstance(node, ast.Name) or node.id in self.locals or node.id in self.cells:
            return None
        value = self.function.__globals__.get(node.id)
        named = isinstance(value, ModuleType) and value.__name__.split(".")[0] in LIBRARIES
        return value if named else None

    def call(self, node: ast.Call) -> None:
        function = node.func
        asks = isinstance(function, ast.Name) and function.id == "isinstance"
        for part in (*node.args[: 1 if asks else None], *(one.value for one in node.keywords)):
            self.value(part)
        if any(one.arg in ("out", "inplace") for one in node.keywords):
            self.refuse(first_line(node))
        if isinstance(function, ast.Name) and function.id not in self.locals:
            return self.call_of(self.found(function.id), function.id, len(node.args))
        if not isinstance(function, ast.Attribute):
            return self.refuse(f"it calls {first_line(function)}")
        base = function.value
        if isinstance(base, ast.Name) and base.id == self.own:
            return self.own_call(function.attr, len(node.args))
        if isinstance(base, ast.Call) and ast.unparse(base) == "super()":
            return self.inherited_call(function.attr)
        found = self.library(function)
        if found is not None:
            return self.call_of(found, ast.unparse(function), len(node.args))
        if isinstance(base, ast.Name) and base.id in self.keywords and function.attr in OF_KEYWORDS:
            return
        if writes(function.attr):
            self.refuse(f"it calls .{function.attr}")
        self.attribute(function)

    def call_of(self, value: object, name: str, positional: int) -> None:
        if isinstance(value, FunctionType) and torchs_name(value) is None:
            return self.reader.function(value)
        if torchs_name(value) is not None and computes(value):
            if takes_inplace(value, positional):
                self.refuse(f"it calls {name} in place")
            return
        if name not in BUILTINS or value is not getattr(builtins, name):
            self.refuse(f"it calls {name}")

    def own_call(self, name: str, positional: int) -> None:
        if name in self.module._modules:
            return self.reader.child(name)
        if name in vars(self.module):
            return self.call_of(vars(self.module)[name], name, positional)
        found = inspect.getattr_static(type(self.module), name, None)
        if not isinstance(found, FunctionType) or found is vars(nn.Module).get(name):
            self.refuse(f"it calls self.{name}")
        self.reader.function(found, bound=True)

    def inherited_call(self, name: str) -> None:
        owner = self.cells.get("__class__")
        line = type(self.module).__mro__
        owner = None if owner is None else owner.cell_contents
        for one in line[line.index(owner) + 1 :] if owner in line else ():
            if name in vars(one):
                return self.reader.function(vars(one)[name], bound=True)
        self.refuse(f"it calls super().{name}")


class Asked(ast.NodeTransformer):
    """Puts names of values in the place of `self.name`, for what a module has, and of
    `self.settings.name`. failed: whether it asks for more."""

    def __init__(self, own: str | None, module: nn.Module | None):
        self.own, self.module, self.failed = own, module, False
        self.values: dict[str, int | float | str | bool | None] = {}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        self.failed = True
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        path = ast.unparse(node).split(".")
        if self.own is None or path[0] != self.own or len(path) > 3:
            return self.visit_Name(node)
        value = self.of_module(path[1])
        if len(path) == 3:
            plain = hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type))
            value = vars(value).get(path[2], self) if plain else self
        if type(value) not in (int, float, str, bool, type(None)):
            return self.visit_Name(node)
        name = f"_{len(self.values)}"
        self.values[name] = value
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def of_module(self, name: str) -> object:
        module = self.module
        for place in (module._parameters, module._buffers, module._modules, vars(module)):
            if name in place:
                return place[name]
        return inspect.getattr_static(type(module), name, self)


def writes(name: str) -> bool:
    """Whether an operation of a tensor of that name does."""
    return name.endswith("_") or name in REACHING


def computes(function: object) -> bool:
    """Whether a function of torch gives a value and does nothing else."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    place = getattr(function, "__module__", None) or getattr(owner, "__name__", "")
    if writes(name) or (place and place.split(".")[0] not in LIBRARIES):
        return False
    of_layers = place in (functional.__name__, "torch._C._nn", "math")
    return of_layers or hasattr(Tensor, name) or name in MAKING or name.startswith("is_")
