"""A forward compiled anew from its own source, with some of it rewritten.

Only if the source is that of the code. The new function finds what its new statements call around
it, as a closure does, and has the globals of its file as they are at each call, so that these stay
untouched and what others put there is seen. Decorators that follow `functools.wraps` are put around
it again.
"""

import __future__

import ast
import copy
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import zip_longest
from types import CellType, CodeType, FunctionType, MethodType

from ..probe import Mismatch

# Whose decorators are known.
LIBRARIES = ("transformers", "torch", "contextlib")
NO_SOURCE = "its forward has no source that is surely its own"
DECORATED = "a decorator of its forward may do more with it than call it"
FEATURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


def innermost(forward: Callable) -> Callable:
    """What its decorators wrap, or itself."""
    return inspect.unwrap(forward)


def definition_of(forward: Callable) -> ast.FunctionDef | None:
    """The parsed source of a function, of the innermost one of a decorated one, without its
    decorators; None if there is none that is surely its own."""
    forward = innermost(forward)
    if not isinstance(forward, FunctionType):
        return None
    try:
        file = "".join(inspect.findsource(forward)[0])
        lines, first = inspect.getsourcelines(forward)
        definition = ast.parse(textwrap.dedent("".join(lines))).body[0]
        codes = codes_of(file, inspect.getfile(forward))
    except (OSError, TypeError, SyntaxError):
        return None
    # Not if the file was changed since it was imported, or the function came from elsewhere. The
    # whole file is compiled, because what a module imports changes how calls are compiled.
    if forward.__code__ not in codes:
        return None
    if not isinstance(definition, ast.FunctionDef):
        return None
    definition.decorator_list = []
    ast.increment_lineno(definition, first - 1)
    return definition


def sure_definition(forward: Callable) -> ast.FunctionDef:
    """The same; `Mismatch` if there is none."""
    definition = definition_of(forward)
    if definition is None:
        raise Mismatch(NO_SOURCE)
    return definition


@lru_cache(maxsize=4)  # several functions of a file are asked for one after the other
def codes_of(file: str, path: str) -> frozenset[CodeType]:
    return frozenset(codes_in(compile(file, path, "exec", dont_inherit=True)))


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code itself and all of functions and classes inside, at any depth."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def names_in(code: CodeType) -> set[str]:
    """What it loads by name from its file, or of objects."""
    return {name for one in codes_in(code) for name in one.co_names}


def rebuilt(
    definition: ast.FunctionDef, forward: Callable, names: dict[str, Callable]
) -> FunctionType:
    """A forward of that source, decorated as `forward` is, which finds `names` around it.

    Raises Mismatch that says why there can be none.
    """
    inner = compiled(definition, innermost(forward), names)
    if inner is None:
        raise Mismatch("its forward's source means something else outside of its class")
    function = decorated(forward, inner)
    if function is None:
        raise Mismatch(DECORATED)
    return function


def decorated(forward: Callable, inner: FunctionType) -> FunctionType | None:
    """`inner` with copies of all decorators of `forward` around it, in place of the innermost
    function; None where one of them is not known to call the function that it wraps and to do no
    more with it."""
    wrapped = getattr(forward, "__wrapped__", None)
    if wrapped is None:
        return inner
    if not is_of_library(forward):
        return None
    rebuilt_inside = decorated(wrapped, inner)
    if rebuilt_inside is None or not isinstance(forward, FunctionType):
        return None
    cells = forward.__closure__ or ()
    kept = [cell for cell in cells if contents_of(cell) is not wrapped]
    # Through what else it holds, the function that is to be replaced would still be called. It may
    # hold itself, to ask whether its class has it: the answer stays the same.
    others = [*map(contents_of, kept), forward.__defaults__, forward.__kwdefaults__]
    if len(kept) == len(cells) or holds(others, wrapped, but=forward):
        return None
    closure = (CellType(rebuilt_inside) if contents_of(cell) is wrapped else cell for cell in cells)
    copied = function_like(forward, forward.__code__, tuple(closure))
    copied.__wrapped__ = rebuilt_inside
    return copied


def is_of_library(decorator: Callable) -> bool:
    """Whether it was written in one of these packages; its `__module__` is that of what it wraps.

    One of somebody else's may count its calls on the function that it wraps, look that up in a
    table, or exchange for a call what a guard has asked about.
    """
    place = getattr(decorator, "__globals__", {}).get("__name__", "")
    return place.split(".")[0] in LIBRARIES


def contents_of(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # emptied
        return cell


def holds(values: list, function: Callable, but: Callable) -> bool:
    """Whether one of these values, `but` left out, is or holds that function or one that it wraps:
    in closures, defaults, containers, partial functions, methods or objects that are called."""
    wanted = set()
    while function is not None:
        wanted.add(id(function))
        function = getattr(function, "__wrapped__", None)
    return any(id(value) in wanted for value in reached(values, but))


def reached(values: list, but: object) -> Iterator[object]:
    """These values and all that they hold, at any depth; nothing that `but` holds."""
    seen, left = {id(but)}, list(values)
    while left:
        value = left.pop()
        yield value
        if id(value) not in seen:
            seen.add(id(value))
            left += parts_of(value)


def parts_of(value: object) -> list:
    """What a value holds that it may call."""
    if isinstance(value, FunctionType):
        named = (value.__kwdefaults__ or {}).values()
        cells = map(contents_of, value.__closure__ or ())
        return [*cells, *(value.__defaults__ or ()), *named]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, (tuple, list, set)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if callable(value) and not isinstance(value, type):  # an object that is called
        return list(getattr(value, "__dict__", {}).values())
    return []


def compiled(
    definition: ast.FunctionDef, forward: FunctionType, names: dict[str, Callable]
) -> FunctionType | None:
    """The function of that source in place of `forward`, which finds `names` around it.

    None if `forward`'s own source, compiled in the same way, is other code than it has: names of a
    class may mean something else outside of it.
    """
    own = definition_of(forward)
    if own is None or not is_same_code(code_of(own, forward, {}), forward.__code__):
        return None
    code = code_of(definition, forward, names)
    cells = dict(zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True))
    cells |= {name: CellType(value) for name, value in names.items()}
    return function_like(forward, code, tuple(cells[name] for name in code.co_freevars))


def code_of(
    definition: ast.FunctionDef, forward: FunctionType, names: dict[str, Callable]
) -> CodeType:
    """Of a definition that finds `names`, and what `forward` finds around it, around it."""
    definition = copy.deepcopy(definition)
    arguments = definition.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    definition.returns = None
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    around = ", ".join([*names, *forward.__code__.co_freevars])
    module = ast.parse(f"def outer({around}):\n    return {definition.name}")
    module.body[0].body.insert(0, definition)
    # The file may have asked for features of later Pythons.
    flags = forward.__code__.co_flags & FEATURES
    whole = compile(module, inspect.getfile(forward), "exec", flags, dont_inherit=True)
    outer = next(code for code in codes_in(whole) if code.co_name == "outer")
    return next(one for one in outer.co_consts if isinstance(one, CodeType))


def is_same_code(one: CodeType, other: CodeType) -> bool:
    """Whether both do the same, wherever they stand."""
    parts = ("co_names", "co_varnames", "co_freevars", "co_cellvars")
    if any(getattr(one, part) != getattr(other, part) for part in parts):
        return False
    if (one.co_flags ^ other.co_flags) & ~inspect.CO_NESTED:
        return False
    pairs = zip_longest(steps_of(one), steps_of(other))
    return all(
        is_same_code(a, b)
        if isinstance(a, CodeType) and isinstance(b, CodeType)
        else type(a) is type(b) and a == b
        for pair in pairs
        for a, b in zip_longest(*(step or () for step in pair))
    )


def steps_of(code: CodeType) -> Iterator[tuple]:
    """(operation, what it is applied to) without what depends on the file around: how the compiler
    calls what the file imports, and where jumps land."""
    for step in dis.get_instructions(code):
        if step.opname not in ("NOP", "CACHE", "PUSH_NULL", "EXTENDED_ARG"):
            name = "LOAD_ATTR" if step.opname == "LOAD_METHOD" else step.opname
            yield name, None if "JUMP" in name or "FOR_ITER" in name else step.argval


def function_like(forward: FunctionType, code: CodeType, closure: tuple) -> FunctionType:
    """A function of that code with all else that `forward` has."""
    function = FunctionType(
        code, forward.__globals__, forward.__name__, forward.__defaults__, closure
    )
    function.__kwdefaults__ = forward.__kwdefaults__
    function.__dict__.update(forward.__dict__)
    function.__module__, function.__qualname__ = forward.__module__, forward.__qualname__
    function.__doc__, function.__annotations__ = forward.__doc__, forward.__annotations__
    return function


def statement_at(text: str, place: ast.stmt) -> ast.stmt:
    """The statement of that text, on the lines of another."""
    statement = ast.parse(text).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    return statement
