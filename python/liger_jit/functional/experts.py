"""Experts: gated MLPs of a mixture, each for the tokens that are routed to it."""

from torch import Tensor

from .. import ops

_ACTIVATIONS = ops.choices("experts", "activation")


def experts(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    gate_up_weight: Tensor,
    down_weight: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: str = "silu",
    transposed: bool = False,
    interleaved: bool = False,
    limit: float | None = None,
    alpha: float = 1.702,
) -> Tensor:
    """y[t] = sum over j of weights[t, j] * expert(indices[t, j], x[t]), as one node of the graph,
    with expert(e, x) = (act(gate) * up) @ down_weight[e].T + down_bias[e], gate and up being the
    halves of x @ gate_up_weight[e].T + gate_up_bias[e].

    No token is dropped or padded, and nothing waits for the device. The sum over j is in float32
    and in the order of j. For the backward it keeps x, gate and up: the product h = act(gate) * up
    is made anew, and the gradient of a routing weight, dy . (h @ down.T), is found as
    (dy @ down) . h. Shazeer et al., arXiv:1701.06538; Guo et al.,
    "SonicMoE", arXiv:2512.14080.

    Args:
        x: [..., H]; dtypes as in `rms_norm`. Under autocast x, the experts' weights and their
            biases are cast to its dtype.
        indices: [..., K], int64 or int32, of x's leading sizes: a token's experts, from 0 to E - 1,
            in any order; one may stand there several times. E is nobody: that pair counts nothing,
            and its weight has the gradient 0.
        weights: [..., K], of any floating-point dtype.
        gate_up_weight: [E, 2 I, H], or transposed [E, H, 2 I].
        down_weight: [E, O, I], or transposed [E, I, O].
        gate_up_bias: [E, 2 I], or None.
        down_bias: [E, O], or None.
        activation: "silu", "gelu_tanh", "gelu", "quick_gelu", or "clamped": gpt-oss's gate, which
            is `clamped_swiglu`'s.
        interleaved: gate has the even outputs of the first product and up the odd ones.
        limit: above 0: gate is at most that, and up between minus that and that; or None.
        alpha: of "clamped", above 0.

    Returns y, [..., O], of x's dtype. The gradient of a tensor that does not require it is not
    computed. On a GPU the products are torch's grouped ones for bfloat16 on compute capability 9
    and 10, where H, I and O are multiples of 8; all others are computed without matrix units.

    Raises:
        ValueError: activation is none of these, or shapes, dtypes or devices do not fit, or on the
            CPU an index is below 0 or above E. On a GPU a later call tells of such an index.
    """
    number = ops.choice("experts", "activation", activation, _ACTIVATIONS)
    leading = x.shape[:-1]
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
        indices = indices.reshape(-1, indices.shape[-1])
        weights = weights.reshape(-1, weights.shape[-1])
    y = ops.experts(
        x,
        indices,
        weights,
        gate_up_weight,
        down_weight,
        gate_up_bias,
        down_bias,
        number,
        interleaved,
        alpha,
        limit or 0.0,
        transposed,
    )[0]
    return y if len(leading) == 1 else y.view(*leading, y.shape[-1])
