"""Liger Kernel's patch functions, by their names and signatures, made from the table of families.

`apply_liger_kernel_to_FAMILY(model=model)` patches that model. Without a model it patches every
model of the family that is built afterwards; `revert_liger_kernel_to_FAMILY()` ends that. A
patched model keeps its handle as `model.liger_handle`.
"""

import gc
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from torch import nn

from ..patch import FLAGS, Handle, Row, patch
from ..patch.apply import flags_of, inside_wrappers
from ..patch.deferred import FamilyHandle, families_awaited_in
from ..patch.families import FAMILIES, FAMILY_OF_TYPE, Family, covers
from ..patch.flags import check_flags
from ..patch.handle import keep

NOTHING_DONE = "no module of this role was recognised"
KWARGS_ARE_FLAGS = "        kwargs: other flags of `liger_jit.patch`.\n"

# The last of each family's is the one under which new models are patched.
_deferred: dict[str, list[FamilyHandle]] = {}


def _apply_function(family: Family) -> Callable:
    def apply(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        model = given.pop("model", None)
        flags = _flags_of(family, given)

        def patch_one(model: nn.Module) -> Handle:
            return _patch(model, flags, [*family.flags, *given])

        return patch_one(model) if model is not None else _defer(family, patch_one)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in family.parameters.items()
    ]
    if family.any_flag:
        parameters.append(inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD))
    signature = inspect.Signature(parameters)
    apply.__name__ = apply.__qualname__ = f"apply_liger_kernel_to_{family.model_type}"
    apply.__signature__ = signature
    others = "have the defaults of `liger_jit.patch`" if family.any_flag else "stay off"
    apply.__doc__ = f"""Patches models of type {family.model_type}, as `liger_jit.patch` does.

    Args:
        {", ".join(family.flags)}:
            which roles to replace; None is the default. Of the two cross entropies the one that is
            asked for takes the place of the other. Roles without a flag here {others}.
        model: the model to patch. None patches every {family.bases.split()[0]} model
            built from now on, when its weights are loaded or at its first forward.
{KWARGS_ARE_FLAGS if family.any_flag else ""}
    Returns a `Handle`, also kept as `model.liger_handle`, or without a model a `FamilyHandle`. The
    report has a row for each role that was asked for.

    Raises as `liger_jit.patch`, and without a model ImportError if the installed transformers has
    no models of this type. Warns if some were built before, which stay as they are.
    """
    return apply


def _revert_function(family: Family) -> Callable:
    def revert() -> None:
        for deferred in _deferred.pop(family.model_type, ()):
            deferred.revert()

    revert.__name__ = revert.__qualname__ = f"revert_liger_kernel_to_{family.model_type}"
    revert.__doc__ = f"""Ends `apply_liger_kernel_to_{family.model_type}()` without a model.

    The {family.bases.split()[0]} classes are as they were, and models patched through them are
    unpatched. Without such a call before, nothing happens.
    """
    return revert


def _flags_of(family: Family | None, given: dict[str, Any]) -> dict[str, bool]:
    """What is on and off for a model, those left out being on. Raises as `patch`."""
    asked = {name: bool(value) for name, value in given.items() if value is not None}
    flags = asked
    if family is not None:
        # A role without a flag stays off, so that the flags say all that is done.
        usual = {} if family.any_flag else dict.fromkeys(FLAGS, False)
        flags = usual | family.flags | asked
    for name, flag in FLAGS.items():
        if flag.not_with and asked.get(name) and flag.not_with not in asked:
            flags[flag.not_with] = False
    check_flags(flags)
    return flags


def _patch(model: nn.Module, flags: dict[str, bool], told: Iterable[str]) -> Handle:
    """Patches the model, unless nothing is left to patch: then the handle is the one it has.

    Of the flags in `told`, each that is on and found nothing has a row in the report.
    """
    handle = patch(model, **flags)
    before = handle.model.__dict__.get("liger_handle")
    if before is not None and before.applied and not any(row.patched for row in handle.report()):
        return before
    answered = {flag for row in handle.report() for flag in flags_of(row)}
    handle.add_rows(
        [
            Row("", type(handle.model).__name__, flag, NOTHING_DONE)
            for flag in dict.fromkeys(told)
            if flags.get(flag) and flag not in answered
        ]
    )
    for one in (model, handle.model):
        keep(handle, one)
    return handle


def _defer(family: Family, patch_one: Callable[[nn.Module], Handle]) -> FamilyHandle:
    for earlier in _deferred.get(family.model_type, ()):
        earlier.end()
    already_there = family.module in sys.modules
    bases = _bases_of(family)
    if already_there:
        _warn_of_models_before(family, bases)
    deferred = FamilyHandle(bases, lambda model: covers(family, model.config.model_type), patch_one)
    _deferred.setdefault(family.model_type, []).append(deferred)
    return deferred.install()


def _bases_of(family: Family) -> list[type]:
    """The family's PreTrainedModel classes. Raises ImportError if transformers has none of them."""
    import transformers  # late: all else here does without

    bases = []
    module = _imported(family.module)
    if module is not None:
        bases = [vars(module)[name] for name in family.base_names if name in vars(module)]
    if not bases:
        raise ImportError(
            f"transformers {transformers.__version__} has no models of type {family.model_type}, "
            f"so there is nothing that apply_liger_kernel_to_{family.model_type} could patch"
        )
    return bases


def _imported(name: str) -> ModuleType | None:
    """The module, or None if there is none; what it lacks itself is an error."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


def _warn_of_models_before(family: Family, bases: list[type]) -> None:
    """Of models that a caller believes to be patched now."""
    if not _living(family, bases):
        return
    gc.collect()  # what nobody holds needs no patch
    models = _living(family, bases)
    parts = {id(part) for model in models for part in model.modules() if part is not model}
    left = [
        type(model).__name__
        for model in models
        if id(model) not in parts
        and not families_awaited_in(model)
        and not getattr(model.__dict__.get("liger_handle"), "applied", False)
    ]
    if left:
        name = f"apply_liger_kernel_to_{family.model_type}"
        warnings.warn(
            f"{name}() without a model patches the models that are built after it. Built before, "
            f"and left as it is: {', '.join(left)}. Call {name}(model=...) with the model, or "
            f"{name}() before it is built.",
            stacklevel=4,
        )


def _living(family: Family, bases: list[type]) -> list[nn.Module]:
    return [
        one
        for one in gc.get_objects()
        # Not isinstance: proxies answer that by what they stand for.
        if issubclass(type(one), tuple(bases))
        # A model whose making failed may have no settings.
        and covers(family, getattr(getattr(one, "config", None), "model_type", None))
    ]


_APPLY = {family.model_type: _apply_function(family) for family in FAMILIES}
_REVERT = {family.model_type: _revert_function(family) for family in FAMILIES}

MODEL_TYPE_TO_APPLY_LIGER_FN = {
    model_type: _APPLY[family.model_type] for model_type, family in FAMILY_OF_TYPE.items()
}

# Under the type of a text part as well: there are callers who make the name from the type.
for _model_type, _family in FAMILY_OF_TYPE.items():
    globals()[f"apply_liger_kernel_to_{_model_type}"] = _APPLY[_family.model_type]
    globals()[f"revert_liger_kernel_to_{_model_type}"] = _REVERT[_family.model_type]

__all__ = [name for name in globals() if name.startswith(("apply_liger_", "revert_liger_"))]
__all__ += ["MODEL_TYPE_TO_APPLY_LIGER_FN"]


def __getattr__(name: str) -> Any:
    for start in ("apply_liger_kernel_to_", "revert_liger_kernel_to_"):
        if name.startswith(start):
            raise AttributeError(
                f"{__name__} has no {name}: there are functions for "
                f"{', '.join(sorted(FAMILY_OF_TYPE))}; liger_jit.patch(model) patches any model"
            )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _apply_liger_kernel(model_type: str, **kwargs) -> FamilyHandle | None:
    """Calls a family's function by the type of its models, before one is built.

    Args:
        model_type: as in a model's config. For a type without a function nothing happens.
        kwargs: flags; those that the function does not take are dropped.

    Returns and raises as `apply_liger_kernel_to_FAMILY` without a model.
    """
    family = FAMILY_OF_TYPE.get(model_type)
    if family is None:
        return None
    return _APPLY[family.model_type](**_taken_by(family, kwargs))


def _apply_liger_kernel_to_instance(model: nn.Module, **kwargs) -> Handle:
    """Patches one model of any type: the function that transformers' and TRL's trainers call.

    Args:
        model: as for `liger_jit.patch`.
        kwargs: flags; those that its family's function does not take are dropped, and those left
            out have that function's defaults. A model without one has those of `liger_jit.patch`.

    Returns the `Handle`, also kept as `model.liger_handle`. Raises as `liger_jit.patch`.
    """
    config = getattr(inside_wrappers(model), "config", None)
    family = FAMILY_OF_TYPE.get(getattr(config, "model_type", None))
    if family is None:
        given = {name: kwargs[name] for name in FLAGS if name in kwargs}
        return _patch(model, _flags_of(None, given), given)
    return _APPLY[family.model_type](**_taken_by(family, kwargs), model=model)


def _taken_by(family: Family, flags: dict[str, Any]) -> dict[str, Any]:
    taken = {*family.flags, *(FLAGS if family.any_flag else ())}
    return {name: value for name, value in flags.items() if name in taken}
