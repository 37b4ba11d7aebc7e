"""Liger Kernel's patch functions, by their names and signatures, made from one table.

`apply_liger_kernel_to_FAMILY(model=model)` patches that model. Without a model it patches every
model of the family that is built afterwards; `revert_liger_kernel_to_FAMILY()` ends that.
"""

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..patch import FLAGS, Handle, patch
from ..patch.deferred import FamilyHandle

logger = logging.getLogger(__name__)

# Flags of Liger's functions for families or parts that have no rule here.
FOREIGN_FLAGS = ("relu_squared",)


@dataclass(frozen=True)
class Family:
    """A model type of transformers, and the flags of its patch function with their defaults."""

    model_type: str
    class_prefix: str
    gate: str

    @property
    def flags(self) -> dict[str, bool]:
        return {
            "rope": True,
            "cross_entropy": False,
            "fused_linear_cross_entropy": True,
            "rms_norm": True,
            self.gate: True,
        }

    @property
    def base_class(self) -> type:
        name = f"transformers.models.{self.model_type}.modeling_{self.model_type}"
        return getattr(importlib.import_module(name), f"{self.class_prefix}PreTrainedModel")


FAMILIES = (
    Family("llama", "Llama", "swiglu"),
    Family("mistral", "Mistral", "swiglu"),
    Family("qwen2", "Qwen2", "swiglu"),
    Family("qwen3", "Qwen3", "swiglu"),
    Family("gemma", "Gemma", "geglu"),
    Family("phi3", "Phi3", "swiglu"),
)

_deferred: dict[str, FamilyHandle] = {}


def _apply_function(family: Family) -> Callable:
    def apply(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        model = given.arguments.pop("model")
        flags = {name: bool(value) for name, value in given.arguments.items()}
        # A role without a flag here stays off, so that the flags say all that is done.
        flags = dict.fromkeys(FLAGS, False) | flags
        if model is not None:
            return patch(model, **flags)
        _revert(family.model_type)
        deferred = _deferred[family.model_type] = FamilyHandle(family.base_class, flags)
        return deferred.install()

    parameters = [(name, bool, default) for name, default in family.flags.items()]
    signature = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, _, default in [*parameters, ("model", nn.Module, None)]
        ]
    )
    apply.__name__ = apply.__qualname__ = f"apply_liger_kernel_to_{family.model_type}"
    apply.__signature__ = signature
    apply.__doc__ = f"""Patches models of type {family.model_type}, as `liger_jit.patch` does.

    Args:
        {", ".join(family.flags)}: which roles to replace.
        model: the model to patch. None patches every {family.class_prefix} model built from now on,
            when its weights are loaded or at its first forward.

    Returns a `Handle`, or without a model a `FamilyHandle`. Raises as `liger_jit.patch`.
    """
    return apply


def _revert(model_type: str) -> None:
    deferred = _deferred.pop(model_type, None)
    if deferred is not None:
        deferred.revert()


def _revert_function(family: Family) -> Callable:
    def revert() -> None:
        _revert(family.model_type)

    revert.__name__ = revert.__qualname__ = f"revert_liger_kernel_to_{family.model_type}"
    revert.__doc__ = f"""Ends `apply_liger_kernel_to_{family.model_type}()` without a model.

    The {family.class_prefix} classes are as they were, and models patched through them are
    unpatched. Without such a call before, nothing happens.
    """
    return revert


MODEL_TYPE_TO_APPLY_LIGER_FN = {family.model_type: _apply_function(family) for family in FAMILIES}

for _function in (*MODEL_TYPE_TO_APPLY_LIGER_FN.values(), *map(_revert_function, FAMILIES)):
    globals()[_function.__name__] = _function


def _apply_liger_kernel_to_instance(model: nn.Module, **flags) -> Handle:
    """Patches one model of any type: the function that transformers' and TRL's trainers call.

    Args:
        model: as for `liger_jit.patch`; the handle is also kept as `model.liger_handle`.
        flags: of `liger_jit.patch`. Those of Liger that have no rule here are logged and ignored.

    Returns the `Handle`. Raises as `liger_jit.patch`.
    """
    foreign = [name for name in flags if name in FOREIGN_FLAGS]
    if foreign:
        logger.warning("liger_jit has no rule for %s: ignored", ", ".join(foreign))
    known = {name: bool(value) for name, value in flags.items() if name not in foreign}
    model.liger_handle = patch(model, **known)
    return model.liger_handle
