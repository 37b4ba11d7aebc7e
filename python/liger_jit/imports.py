"""What is done right after somebody else imports a module, and not before: who never needs the
module does not pay for its import."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable

import torch


def when_imported(name: str, then: Callable[[], None], without: str) -> None:
    """Calls `then` now if the module is imported, else once, right after its import succeeded. Such
    interfaces are torch's own and an import must not fail for them: where `then` does, a warning
    says what is so `without` it."""
    if name in sys.modules:
        _or_warn(then, without)
    else:
        sys.meta_path.insert(0, _Watch(name, lambda: _or_warn(then, without)))


def _or_warn(then: Callable[[], None], without: str) -> None:
    try:
        then()
    except Exception as trouble:
        warnings.warn(
            f"liger_jit: {without} under torch {torch.__version__}: {trouble}", stacklevel=2
        )


class _Watch:
    """A finder that waits for that import, finds nothing itself, and leaves when it succeeded."""

    def __init__(self, name: str, then: Callable[[], None]):
        self.name = name
        self.then = then
        self.looking = False

    def find_spec(self, name, path=None, target=None):
        if name != self.name or self.looking:
            return None
        self.looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_call(module):
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self.then()

            spec.loader.exec_module = execute_and_call
        return spec
