"""Modules that TRL imports and its losses never touch.

It reads data sets and draws tables by `datasets`, `pyarrow` and `pandas`, which weigh more than
all else that a bench needs. Where one is not installed, an empty module takes its name, in the
bench's process alone: whatever is imported from it is a class that has nothing, so that a loss that
did touch one would fail, and no figure could come of it.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from transformers.utils import is_datasets_available, is_pandas_available

NAMES = {
    "datasets": ("datasets.fingerprint",),
    "pandas": (),
    "pyarrow": ("pyarrow.compute", "pyarrow.types"),
}


class StandIn(ModuleType):
    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def take_names_of_absent() -> None:
    is_datasets_available(), is_pandas_available()  # transformers remembers what it found
    for name, parts in NAMES.items():
        if name not in sys.modules and find_spec(name) is None:
            sys.modules.update({each: StandIn(each) for each in (name, *parts)})
