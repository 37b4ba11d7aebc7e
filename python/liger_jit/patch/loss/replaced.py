"""What somebody put in the place of Liger's function for the fused loss.

Frameworks that want an option in the loss of every model, such as token scaling, set the attribute
of the module that has Liger's names. A patched model's loss then goes through that function.
"""

from collections.abc import Callable

from torch import Tensor

NAME = "liger_fused_linear_cross_entropy"

# The modules' names and what was there by that name: set where they are imported.
_places: list[tuple[dict, Callable]] = []


def watch(scope: dict) -> None:
    """Of the module that defines the function, once it is defined."""
    _places.append((scope, scope[NAME]))


def replacement() -> Callable | None:
    """The function that stands there now, if it is another."""
    for scope, own in _places:
        if scope[NAME] is not own:
            return scope[NAME]
    return None


def loss_by(
    function: Callable,
    call,
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    target: Tensor,
    reduction: str = "mean",
    num_items: Tensor | float | None = None,
    **options,
) -> Tensor:
    """The loss by that function, whose arguments are Liger's. What the call does not ask for is not
    passed, so that the function's own value stands.

    call: a `LossCall`. Other arguments are those of `functional.fused_linear_cross_entropy`.
    """
    asked = call.asked | {"use_token_scaling": call.token_scaling}
    asked = {name: True for name, wanted in asked.items() if wanted}
    given = {name: value for name, value in options.items() if value is not None}
    reduction = reduction if num_items is None else "sum"
    result = function(states, weight, target, bias=bias, reduction=reduction, **asked, **given)
    loss = call.keep(result)
    if isinstance(num_items, Tensor):
        num_items = num_items.to(loss.device)
    return loss if num_items is None else loss / num_items
