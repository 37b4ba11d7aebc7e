"""Which functions are transformers' own: by their code, for a wrapper says that it comes from where
what it wraps comes from."""

import os
import sys
from types import FunctionType

from .definition import innermost, is_of_library
from .torchs_own import name_in


def is_transformers(function: object, name: str) -> bool:
    """Whether transformers defines this function, and by that qualified name."""
    package = sys.modules.get("transformers")
    if package is None or type(function) is not FunctionType:
        return False
    return name_in(os.path.dirname(package.__file__) + os.sep, function) == name


def comes_from(function: object, home: str) -> bool:
    """Whether it is of that file, in decorators of transformers and torch alone."""
    return home_of(function) == home


def is_of_transformers(function: object) -> bool:
    """Whether transformers wrote it, and transformers or torch its decorators."""
    return home_of(function).startswith("transformers.")


def home_of(function: object) -> str:
    """The name of the file that it is of, in decorators of transformers and torch alone, or ""."""
    own = innermost(function) if callable(function) else function
    while function is not own:
        if not is_of_library(function):
            return ""
        function = function.__wrapped__
    return getattr(own, "__globals__", {}).get("__name__", "")
