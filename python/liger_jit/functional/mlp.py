"""Gates of MLPs, and a whole gated MLP."""

from torch import Tensor

from .. import ops

_GELU_FORMS = ops.choices("geglu", "approximate")
_ACTIVATIONS = ops.choices("gated_mlp", "activation")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """y = silu(gate) * up, with silu(g) = g / (1 + exp(-g)).

    silu(gate) is rounded to the inputs' dtype before the product, as eager modules do.
    Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202.

    Args:
        gate, up: [..., H], of one shape and dtype; views with a row stride (the halves of a packed
            projection) are read in place.

    Returns y, of that shape and dtype. Raises ValueError if a dtype is not supported, or shapes,
    dtypes or devices differ.
    """
    return ops.swiglu(gate, up)


def geglu(gate: Tensor, up: Tensor, approximate: str = "tanh") -> Tensor:
    """y = gelu(gate) * up.

        "tanh": gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3)))
        "none": gelu(g) = g / 2 * (1 + erf(g / sqrt(2)))

    Hendrycks and Gimpel, arXiv:1606.08415; Shazeer, arXiv:2002.05202. `approximate` is spelled as
    in `torch.nn.functional.gelu`.

    Args:
        gate, up: as in `swiglu`.
        approximate: "tanh" or "none".

    Returns and raises as `swiglu`; ValueError if approximate is neither.
    """
    form = ops.choice("geglu", "approximate", approximate, _GELU_FORMS)
    return ops.geglu(gate, up, form)


def gated_mlp(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor | None,
    down_weight: Tensor,
    activation: str = "silu",
) -> Tensor:
    """y = (act(x @ gate_weight.T) * (x @ up_weight.T)) @ down_weight.T, as one node of the graph.

    For the backward it keeps x, gate and up; eager modules keep their product as well, or more.
    act(gate) is rounded as in `swiglu` and `geglu`.

    Args:
        x: [..., H]; dtypes as in `rms_norm`. Under autocast all tensors are cast to its dtype.
        gate_weight: [I, H], or without up_weight [2 I, H]: the rows of gate, then those of up.
        up_weight: [I, H], or None.
        down_weight: [O, I].
        activation: "silu", "gelu_tanh" or "gelu".

    Returns y, [..., O]. The gradient of a tensor that does not require it is not computed.

    Raises:
        ValueError: activation is none of these, or shapes, dtypes or devices do not fit.
    """
    number = ops.choice("gated_mlp", "activation", activation, _ACTIVATIONS)
    return ops.gated_mlp(x, gate_weight, up_weight, down_weight, number)[0]
