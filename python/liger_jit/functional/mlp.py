"""Activations and gates of MLPs, and a whole gated MLP."""

from torch import Tensor

from .. import ops

_GELU_FORMS = ops.choices("geglu", "approximate")
_ACTIVATIONS = ops.choices("gated_mlp", "activation")


def swiglu(
    gate: Tensor,
    up: Tensor,
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
    limit: float | None = None,
) -> Tensor:
    """y = silu(gate) * up, with silu(g) = g / (1 + exp(-g)).

    With the options: y = down_multiplier * silu(gate_multiplier * min(gate, limit)) *
    clamp(up, -limit, limit). silu(...) is rounded to the inputs' dtype before the product, as eager
    modules do. Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202. The multipliers are
    Falcon-H1's: its down projection has no bias, so what it multiplies y by may come before it.

    Args:
        gate, up: [..., H], of one shape and dtype; views with a row stride (the halves of a packed
            projection) are read in place.
        limit: above 0, or None.

    Returns y, of that shape and dtype. Raises ValueError if a dtype is not supported, or shapes,
    dtypes or devices differ, or limit is below 0.
    """
    if gate_multiplier == 1.0 and down_multiplier == 1.0 and limit is None:
        return ops.swiglu(gate, up)
    return ops.swiglu(gate, up, gate_multiplier, down_multiplier, limit or 0.0)


def geglu(
    gate: Tensor,
    up: Tensor,
    approximate: str = "tanh",
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
) -> Tensor:
    """y = gelu(gate) * up.

        "tanh": gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3)))
        "none": gelu(g) = g / 2 * (1 + erf(g / sqrt(2)))
        "sigmoid": gelu(g) = g / (1 + exp(-1.702 * g)), called quick GELU

    Hendrycks and Gimpel, arXiv:1606.08415; Shazeer, arXiv:2002.05202. `approximate` is spelled as
    in `torch.nn.functional.gelu`, which has no "sigmoid".

    Args:
        gate, up: as in `swiglu`; so are the multipliers.
        approximate: "tanh", "none" or "sigmoid".

    Returns and raises as `swiglu`; ValueError if approximate is none of these.
    """
    form = ops.choice("geglu", "approximate", approximate, _GELU_FORMS)
    if gate_multiplier == 1.0 and down_multiplier == 1.0:
        return ops.geglu(gate, up, form)
    return ops.geglu(gate, up, form, gate_multiplier, down_multiplier)


def packed_glu(
    gate_up: Tensor,
    activation: str = "silu",
    interleaved: bool = False,
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
    limit: float | None = None,
) -> Tensor:
    """`swiglu` or `geglu` of one tensor that holds gate and up, and one gradient for it.

    The gradient of halves that were sliced is put together by a copy; here it is written where it
    belongs.

    Args:
        gate_up: [..., 2 I]: gate is its first half and up its second, or with `interleaved` gate
            has its even columns and up its odd ones. Rows may have a stride.
        activation: "silu", "gelu_tanh", "gelu" or "quick_gelu" (x * sigmoid(1.702 x)).
        gate_multiplier, down_multiplier, limit: as in `swiglu`.

    Returns y, [..., I]. Raises ValueError if the last size is odd, the activation is none of these,
    a dtype is not supported, or limit is below 0.
    """
    number = ops.choice("packed_glu", "activation", activation, _ACTIVATIONS)
    return ops.packed_glu(
        gate_up, number, interleaved, gate_multiplier, down_multiplier, limit or 0.0
    )


def clamped_swiglu(
    gate_up: Tensor, alpha: float = 1.702, limit: float | None = 7.0, interleaved: bool = True
) -> Tensor:
    """gpt-oss's gate: y = (u + 1) * g * sigmoid(alpha * g), with g = min(gate, limit) and
    u = clamp(up, -limit, limit).

    "gpt-oss-120b & gpt-oss-20b Model Card", arXiv:2508.10925. A value at the limit or beyond it
    has no gradient, as in `torch.clamp`.

    Args:
        gate_up, interleaved: as in `packed_glu`; a bias of the projection is already in it.
        alpha: above 0.
        limit: above 0, or None.

    Returns y, [..., I]. Raises as `packed_glu`, and ValueError if alpha is not above 0.
    """
    return ops.clamped_swiglu(gate_up, alpha, limit or 0.0, interleaved)


def activate(x: Tensor, activation: str = "gelu_tanh", bias: Tensor | None = None) -> Tensor:
    """y = act(x + bias), for an MLP without a gate.

    Args:
        x: [..., H]; rows may have a stride. x + bias is not rounded before the activation.
        activation: "gelu_tanh", "gelu", "quick_gelu" or "silu", as in `packed_glu`.
        bias: [H], of any floating-point dtype, or None. Its gradient is summed in float32, in an
            order that is always the same.

    Returns y, of x's shape and dtype. Raises ValueError if the activation is none of these, a dtype
    is not supported, or bias does not fit.
    """
    number = ops.choice("activate", "activation", activation, _ACTIVATIONS)
    return ops.activate(x, bias, number)


def gated_mlp(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor | None,
    down_weight: Tensor,
    activation: str = "silu",
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
) -> Tensor:
    """y = (act(x @ gate_weight.T) * (x @ up_weight.T)) @ down_weight.T, as one node of the graph.

    For the backward it keeps x, gate and up; eager modules keep their product as well, or more.
    act(gate) is rounded as in `swiglu` and `geglu`.

    Args:
        x: [..., H]; dtypes as in `rms_norm`. Under autocast all tensors are cast to its dtype.
        gate_weight: [I, H], or without up_weight [2 I, H]: the rows of gate, then those of up.
        up_weight: [I, H], or None.
        down_weight: [O, I].
        activation: "silu", "gelu_tanh", "gelu" or "quick_gelu".
        gate_multiplier, down_multiplier: as in `swiglu`.

    Returns y, [..., O]. The gradient of a tensor that does not require it is not computed.

    Raises:
        ValueError: activation is none of these, or shapes, dtypes or devices do not fit.
    """
    number = ops.choice("gated_mlp", "activation", activation, _ACTIVATIONS)
    if gate_multiplier == 1.0 and down_multiplier == 1.0:
        return ops.gated_mlp(x, gate_weight, up_weight, down_weight, number)[0]
    return ops.gated_mlp(
        x, gate_weight, up_weight, down_weight, number, gate_multiplier, down_multiplier
    )[0]


def tiled_mlp(
    x: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor | None,
    down_weight: Tensor,
    activation: str = "silu",
    gate_multiplier: float = 1.0,
    down_multiplier: float = 1.0,
    shards: int | None = None,
) -> Tensor:
    """`gated_mlp` by shards of the rows of x, for sequences whose gate and up do not fit.

    For the backward it keeps x alone, and makes gate and up of each shard anew: 11 products in
    place of 9. What lies between the projections exists for one shard at a time. The weights'
    gradients are one result each, added up over shards in place: in float32 where tensors have 16
    bits and there are several shards, because a sum of many in 16 bits is rounded at each.

    Args:
        x, weights, multipliers: as in `gated_mlp`.
        activation: "silu", "gelu_tanh", "gelu" or "quick_gelu".
        shards: how many, of equal length; None: so many that a shard has at most H rows.

    Returns and raises as `gated_mlp`; ValueError if shards is below 1.
    """
    number = ops.choice("tiled_mlp", "activation", activation, _ACTIVATIONS)
    if shards is not None and shards < 1:
        raise ValueError(
            f"liger_jit::tiled_mlp: argument 'shards' is {shards}; allowed: 1 or more, or None"
        )
    return ops.tiled_mlp(
        x,
        gate_weight,
        up_weight,
        down_weight,
        number,
        gate_multiplier,
        down_multiplier,
        shards or 0,
    )
