"""The flags of `patch`: one table, of which its signature, its help and its errors are made."""

import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class Flag:
    """A keyword of `patch`.

    roles: what modules and losses may become while it is on. A role that several flags have needs
    them all. not_with: another flag, which cannot be on together with this one.
    """

    name: str
    default: bool
    roles: tuple[str, ...]
    help: str
    not_with: str | None = None


TABLE = (
    Flag("rope", True, ("rope", "qk_norm_rope"), "rotary embeddings, in attention."),
    Flag(
        "rms_norm",
        True,
        ("rms_norm", "gated_rms_norm", "fused_add_rms_norm", "rms_norm_add", "qk_norm_rope"),
        "RMSNorm of any form, with a gate or without. It also takes the residual sum before or "
        "after a norm into it, inside a decoder layer; with rope, norms of heads of q and k and "
        "their rotation become one.",
    ),
    Flag(
        "layer_norm",
        True,
        ("layer_norm", "fused_add_layer_norm", "layer_norm_add"),
        "LayerNorm over one dimension, torch's or one that is written out, and the residual sums "
        "before or after it as those of rms_norm.",
    ),
    Flag(
        "swiglu",
        True,
        ("swiglu",),
        "gated MLPs with SiLU. One becomes one node while its projections are plain linear layers, "
        "else the activation alone is ours. Experts whose weights are stacked become one node.",
    ),
    Flag("geglu", True, ("geglu",), "the same with GELU, exact or by tanh."),
    Flag("relu_squared", True, ("relu_squared",), "MLPs without a gate, with a squared ReLU."),
    Flag("activation", True, ("activation",), "the same with GELU of any form, or SiLU."),
    Flag(
        "causal_mask",
        True,
        ("causal_mask",),
        "under torch.compile, make no mask for a forward that is given no mask, no positions and "
        "no cache, where eager attention gets none either.",
    ),
    Flag(
        "cross_entropy",
        False,
        ("cross_entropy",),
        "the loss alone, on real logits; needs fused_linear_cross_entropy=False. With neither of "
        "the two the forward takes skip_logits and does nothing with it.",
        not_with="fused_linear_cross_entropy",
    ),
    Flag(
        "fused_linear_cross_entropy",
        True,
        ("fused_linear_cross_entropy",),
        "never hold the logits of a training step. A forward with labels in training mode then "
        "returns `logits=None`, unless it is called with skip_logits=False. The forward also takes "
        "skip_logits, return_token_accuracy, return_predicted_tokens and use_token_scaling, and "
        "answers in token_accuracy and predicted_tokens of its output.",
        not_with="cross_entropy",
    ),
)
FLAGS = {flag.name: flag for flag in TABLE}
# Each role, and the flags that must all be on for it.
ROLES = {
    role: tuple(flag.name for flag in TABLE if role in flag.roles)
    for one in TABLE
    for role in one.roles
}


def roles_of(flags: dict[str, bool]) -> set[str]:
    """What these flags ask for."""
    return {role for role, needed in ROLES.items() if all(flags[flag] for flag in needed)}


def check_flags(flags: dict[str, bool]) -> None:
    """Raises what `patch` raises for its flags."""
    unknown = [name for name in flags if name not in FLAGS]
    if unknown:
        raise TypeError(
            f"patch() does not know {', '.join(unknown)}; its flags: {', '.join(FLAGS)}"
        )
    for name, flag in FLAGS.items():
        if flags.get(name) and flags.get(flag.not_with):
            raise ValueError(f"{name} and {flag.not_with} replace the same loss: choose one")


def with_flags(patch: Callable[[nn.Module, dict[str, bool]], T]) -> Callable[..., T]:
    """`patch(model, flags)` as a function of a model and of each flag of the table, checked.

    The line `{flags}` of its docstring becomes their help.
    """
    kind = inspect.Parameter
    parameters = [
        kind("model", kind.POSITIONAL_OR_KEYWORD, annotation=nn.Module),
        *(
            kind(flag.name, kind.POSITIONAL_OR_KEYWORD, default=flag.default, annotation=bool)
            for flag in TABLE
        ),
        kind("unknown", kind.VAR_KEYWORD),
    ]
    own = inspect.signature(patch)
    signature = own.replace(parameters=parameters)

    @functools.wraps(patch)
    def from_keywords(*args, **kwargs) -> T:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        unknown, model = given.arguments.pop("unknown"), given.arguments.pop("model")
        check_flags(given.arguments | unknown)
        return patch(model, given.arguments)

    from_keywords.__signature__ = signature
    typed = {one.name: one.annotation for one in parameters if one.annotation is not one.empty}
    from_keywords.__annotations__ = {**typed, "return": own.return_annotation}
    from_keywords.__doc__ = (patch.__doc__ or "").replace("        {flags}", help_text())
    return from_keywords


def help_text() -> str:
    indents = {"initial_indent": " " * 8, "subsequent_indent": " " * 12}
    return "\n".join(textwrap.fill(f"{flag.name}: {flag.help}", 100, **indents) for flag in TABLE)
