"""liger_jit: kernels for LLM training, compiled for the exact sizes, dtypes and device at hand.

    import liger_jit

    handle = liger_jit.patch(model)    # a live Hugging Face model; handle.unpatch() restores it
    liger_jit.warmup(handle)           # compiles and tunes ahead of the first step (optional)

`liger_jit.functional` has the operators as functions, `liger_jit.transformers` the modules and
losses under Liger Kernel's names, `liger_jit.stats()` what was compiled, tuned and taken from the
cache.
"""

import importlib

# At once and not on first use: these functions bear the names of their modules, and whichever is
# bound last stays.
from . import lowerings, sharding
from .distributed import use_process_group
from .patch import patch
from .stats import check, stats
from .warmup import warmup

lowerings.register_when_imported()
sharding.register_when_imported()

__version__ = "0.1.0"
__all__ = [
    "check",
    "functional",
    "patch",
    "stats",
    "transformers",
    "use_process_group",
    "warmup",
]


def __getattr__(name: str):
    if name in ("functional", "transformers"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
