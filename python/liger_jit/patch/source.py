"""A forward compiled anew from its own source, with some statements rewritten.

Only if the source is that of the code, and the function is plain: no decorator and no closure. The
new function gets what its new statements call from an enclosing function, so that the module's
globals stay untouched.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import update_wrapper
from types import CodeType, FunctionType


def definition_of(forward: Callable) -> ast.FunctionDef | None:
    """The parsed source of a plain function; None if there is none that is surely its own."""
    plain = isinstance(forward, FunctionType) and not forward.__closure__
    if not plain or hasattr(forward, "__wrapped__"):
        return None
    try:
        file = "".join(inspect.findsource(forward)[0])
        lines, first = inspect.getsourcelines(forward)
        definition = ast.parse(textwrap.dedent("".join(lines))).body[0]
        whole = compile(file, inspect.getfile(forward), "exec", dont_inherit=True)
    except (OSError, TypeError, SyntaxError):
        return None
    # Not if the file was changed since it was imported, or the function came from elsewhere. The
    # whole file is compiled, because what a module imports changes how calls are compiled.
    if forward.__code__ not in codes_in(whole):
        return None
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        return None
    ast.increment_lineno(definition, first - 1)
    return definition


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """All code of functions and classes inside, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_in(constant)


def compiled(
    definition: ast.FunctionDef, forward: FunctionType, names: dict[str, Callable]
) -> FunctionType:
    """The function of that source in place of `forward`, which finds `names` around it."""
    definition = copy.deepcopy(definition)
    arguments = definition.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    definition.returns = None
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    module = ast.parse(f"def outer({', '.join(names)}):\n    return {definition.name}")
    module.body[0].body.insert(0, definition)
    scope: dict = {}
    exec(compile(module, inspect.getfile(forward), "exec"), forward.__globals__, scope)
    function = update_wrapper(scope["outer"](*names.values()), forward)
    del function.__wrapped__
    function.__defaults__, function.__kwdefaults__ = forward.__defaults__, forward.__kwdefaults__
    return function


def statement_at(text: str, place: ast.stmt) -> ast.stmt:
    """The statement of that text, on the lines of another."""
    statement = ast.parse(text).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    return statement
