"""What a forward may ask of autocast, and the contexts in which it turns it off.

Only who tries a forward in every state of autocast may allow these: see `read`.
"""

import ast
from types import FunctionType

import torch

from .compared import Function, function_of
from .torchs_own import torchs_name

# Functions of torch that say what the state is, and the one that casts arguments as it says.
ASKING = frozenset({"is_autocast_enabled", "get_autocast_dtype"})
CASTING = "_cast"
NAMED = frozenset({"device_type", "enabled"})


def asks_for_state(node: ast.AST) -> bool:
    """`torch.is_autocast_enabled(...)`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.is_autocast_enabled"


def turns_off(item: ast.withitem) -> bool:
    """Whether the context is a call with `enabled=False`, and of a device at most."""
    call = item.context_expr
    if item.optional_vars is not None or not isinstance(call, ast.Call) or len(call.args) > 1:
        return False
    named = {one.arg: one.value for one in call.keywords}
    enabled = named.get("enabled")
    off = isinstance(enabled, ast.Constant) and enabled.value is False
    return off and named.keys() <= NAMED


def is_autocast(context: object) -> bool:
    """Whether it is torch's autocast, or transformers' function that enters it where that is on
    already. That by name: its package need not be there."""
    if context is torch.amp.autocast_mode.autocast:
        steps = (vars(context).get(name) for name in ("__init__", "__enter__", "__exit__"))
        return all(torchs_name(step) is not None for step in steps)
    place = getattr(context, "__module__", None), getattr(context, "__qualname__", None)
    named = place == ("transformers.utils.generic", "maybe_autocast")
    return isinstance(context, FunctionType) and named and not hasattr(context, "__wrapped__")


def watched(context: FunctionType) -> tuple[Function, list[tuple[dict, str, object]]]:
    """All of transformers' function that may be replaced: itself, and names of its file."""
    scope = context.__globals__
    names = [(scope, name, scope[name]) for name in context.__code__.co_names if name in scope]
    return function_of(context), names
