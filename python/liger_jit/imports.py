"""What is done right after somebody else imports a module, and not before: who never needs the
module does not pay for its import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable


def when_imported(name: str, then: Callable[[], None]) -> None:
    """Calls `then` now if the module is imported, else once, right after its import succeeded."""
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Watch(name, then))


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
