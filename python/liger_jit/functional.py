"""The operators as plain functions: differentiable, without state, without a host sync.

Each function is one call of the native operator of the same name. Tensors are checked there, so an
error names the operator, the argument, its value and what is allowed. Half-precision inputs are
computed in float32 and rounded at the store; float64 (CPU only) is computed in float64.
Every function compiles under `torch.compile(fullgraph=True)`; none can be differentiated twice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import ops

_CASTING_MODES = ops.choices("rms_norm", "casting_mode")
_GELU_FORMS = ops.choices("geglu", "approximate")
_ACTIVATIONS = ops.choices("gated_mlp", "activation")
_REDUCTIONS = ops.choices("cross_entropy", "reduction")
# Options that are left out as one.
_NORM_DEFAULTS = ops.defaults("rms_norm", "offset", "casting_mode", "promote")
_LOSS_OPTIONS = (
    "ignore_index",
    "label_smoothing",
    "lse_square_scale",
    "softcap",
    "reduction",
    "token_scaling",
    "want_accuracy",
    "want_predicted",
)
_LOSS_DEFAULTS = ops.defaults("cross_entropy", *_LOSS_OPTIONS)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
    promote: bool = False,
) -> Tensor:
    """Root mean square normalisation over the last dimension.

        y = x / sqrt(mean(x^2) + eps) * (offset + weight)

    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Args:
        x: [..., H]; float32, bfloat16, float16, or float64 on the CPU. The last dimension is
            contiguous, or else it is copied.
        weight: [H] of any of these dtypes, or None for a scale of one.
        eps: added to the mean square.
        offset: added to the weight: 1.0 for the Gemma families, whose weights start at zero.
        casting_mode: where the original module rounds. "llama": the normalised value is rounded to
            x's dtype before it is scaled. "gemma" and "none": one rounding, after the scale.
        promote: give y the promoted dtype of x and weight, as eager modules do, not x's dtype.

    Returns y, of x's shape.

    Raises:
        ValueError: casting_mode is not one of the three, dtype not supported, weight not [H], or
            tensors on different devices.
    """
    mode = ops.choice("rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    options = (offset, mode, promote)
    if options == _NORM_DEFAULTS:
        return ops.rms_norm(x, weight, eps)[0]
    return ops.rms_norm(x, weight, eps, *options)[0]


def fused_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
) -> tuple[Tensor, Tensor]:
    """Residual addition and the normalisation of its sum, in one pass over memory.

        sum = x + residual            (rounded to x's dtype, as eager addition does)
        y = rms_norm(sum, weight, eps, offset, casting_mode)

    Args:
        x, residual: [..., H], of one shape and dtype.
        weight, eps, offset, casting_mode: as in `rms_norm`.

    Returns (y, sum), both of x's shape and dtype; gradients of both flow to x and residual alike.
    Raises as `rms_norm`, and ValueError if x and residual differ in shape or dtype.
    """
    mode = ops.choice("fused_add_rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    options = (offset, mode, False)
    if options == _NORM_DEFAULTS:
        return ops.fused_add_rms_norm(x, residual, weight, eps)[:2]
    return ops.fused_add_rms_norm(x, residual, weight, eps, *options)[:2]


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Layer normalisation over the last dimension.

        y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias      (biased variance)

    Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450.

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        weight, bias: [H] each, or None for one and zero.
        eps: added to the variance.

    Returns y, of x's shape and dtype. Raises ValueError as `rms_norm`.
    """
    return ops.layer_norm(x, weight, bias, eps)[0]


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


def rope(
    q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Rotary position embedding, half-split form, of queries and keys.

        y[:R/2]  = x[:R/2] * cos[:R/2] - x[R/2:R] * sin[:R/2]
        y[R/2:R] = x[R/2:R] * cos[R/2:] + x[:R/2] * sin[R/2:]
        y[R:]    = x[R:]

    Su et al., "RoFormer", arXiv:2104.09864; the half-split layout is that of GPT-NeoX and Llama.

    Args:
        q: [B, Hq, T, D] for unsqueeze_dim=1, [B, T, Hq, D] for unsqueeze_dim=2; any strides whose
            last dimension is contiguous.
        k: as q, with its own number of heads, or None.
        cos, sin: [T, R], [1 or B, T, R], or the latter with a singleton head dimension; R is even
            and at most D (R < D rotates a part). One that requires a gradient is refused.
        unsqueeze_dim: the dimension of the heads in q and k, 1 or 2.

    Returns:
        (q rotated, k rotated or None), of the inputs' shapes, dtypes and layouts.

    Raises:
        ValueError: unsqueeze_dim is neither, a 4-D cos or sin has more than one head, R is odd or
            above D, or batch, length, dtype or device of cos and sin do not fit.
    """
    if unsqueeze_dim != 1 and unsqueeze_dim != 2:
        raise ops.refuse("rope", "unsqueeze_dim", unsqueeze_dim, (1, 2))
    cos = ops.without_heads("rope", "cos", cos, unsqueeze_dim)
    sin = ops.without_heads("rope", "sin", sin, unsqueeze_dim)
    if unsqueeze_dim == 1:
        q_out, k_out = ops.rope(q, k, cos, sin)
        return q_out, None if k is None else k_out
    q = ops.heads_second("rope", "q", q)
    if k is None:
        return ops.rope(q, None, cos, sin)[0].transpose(1, 2), None
    q_out, k_out = ops.rope(q, ops.heads_second("rope", "k", k), cos, sin)
    return q_out.transpose(1, 2), k_out.transpose(1, 2)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
    offset: float = 0.0,
    casting_mode: str = "llama",
    unsqueeze_dim: int = 1,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` of each head of queries and keys, then `rope` of both, in one pass over memory.

        q, k = rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)

    It rounds where those two do, so their results are its own.

    Args:
        q, k, cos, sin, unsqueeze_dim: as in `rope`; k is not optional. The head size D is at most
            1024.
        weight_q, weight_k: [D], of one dtype.
        eps, offset, casting_mode: as in `rms_norm`, for both.

    Returns (q, k), of the inputs' shapes, dtypes and layouts.
    Raises ValueError as `rms_norm` and `rope`.
    """
    mode = ops.choice("qk_norm_rope", "casting_mode", casting_mode, _CASTING_MODES)
    if unsqueeze_dim != 1 and unsqueeze_dim != 2:
        raise ops.refuse("qk_norm_rope", "unsqueeze_dim", unsqueeze_dim, (1, 2))
    cos = ops.without_heads("qk_norm_rope", "cos", cos, unsqueeze_dim)
    sin = ops.without_heads("qk_norm_rope", "sin", sin, unsqueeze_dim)
    weights_and_angles = (weight_q, weight_k, cos, sin, eps, offset, mode)
    if unsqueeze_dim == 1:
        return ops.qk_norm_rope(q, k, *weights_and_angles)[:2]
    q = ops.heads_second("qk_norm_rope", "q", q)
    k = ops.heads_second("qk_norm_rope", "k", k)
    q_out, k_out = ops.qk_norm_rope(q, k, *weights_and_angles)[:2]
    return q_out.transpose(1, 2), k_out.transpose(1, 2)


@dataclass
class CrossEntropyOutput:
    """What a loss returns when more than the loss is asked for; None where it was not asked for.

    Only `loss` is differentiable. z_loss is the part of it that lse_square_scale adds.
    """

    loss: Tensor
    z_loss: Tensor | None = None
    token_accuracy: Tensor | None = None
    predicted_tokens: Tensor | None = None


def _loss_output(outputs, shape, per_row: bool, asked) -> Tensor | CrossEntropyOutput:
    loss, z_loss, accuracy, predicted = outputs[:4]
    if per_row:
        loss, z_loss = loss.view(shape), z_loss.view(shape)
    if True not in asked:
        return loss
    return CrossEntropyOutput(
        loss,
        z_loss if asked[0] else None,
        accuracy if asked[1] else None,
        predicted.view(shape) if asked[2] else None,
    )


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    num_items: float | Tensor | None = None,
    return_z_loss: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
    token_scaling: bool = False,
) -> Tensor | CrossEntropyOutput:
    """Cross entropy of logits against class indices, with the gradient made in the forward.

    With z = softcap * tanh(logits / softcap), or the logits themselves, a row with label y adds

        w[y] * (1 - s) * (lse - z[y])  +  s / V * sum_i w[i] * (lse - z[i])  +  a * lse^2

    where lse = log(sum(exp(z))), s = label_smoothing and a = lse_square_scale. "mean" divides the
    first two terms by the sum of w[y] and the third by the number of labels that are not ignored.

    Smoothing: Szegedy et al., arXiv:1512.00567. z-loss: PaLM, arXiv:2204.02311. Softcap: Gemma 2,
    arXiv:2408.00118.

    Args:
        logits: [..., V]; leading dimensions are flattened. Never changed.
        target: [...], int64. A label other than ignore_index outside 0 .. V-1 is an error.
        weight: [V], a weight for each class, of any dtype.
        ignore_index: the label of rows that count nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: from 0 to 1.
        lse_square_scale: factor of the z-loss.
        softcap: positive, or None for none.
        num_items: with "mean", the denominator of every term in place of the count in this batch
            (labels over all gradient accumulation steps): a number, or a tensor of one element.
        return_z_loss, return_token_accuracy, return_predicted_tokens: ask for more than the loss.
        token_scaling: multiply each row's loss by the probability of its label, held constant.

    Returns:
        The loss: float32 (float64 for float64), a scalar, or of target's shape for "none". With any
        of the three flags a `CrossEntropyOutput`: z_loss of loss's shape; token_accuracy, float32,
        the share of counted rows whose largest logit is the label's; predicted_tokens, int64 of
        target's shape, the lowest index of the largest logit, -1 where ignored.

        If every label is ignored the mean is NaN, as in torch, and the gradient is zero.

    Raises:
        ValueError: reduction unknown, num_items without "mean", shapes, dtypes or devices that do
            not fit. On the CPU also a label out of range, naming row and value; on a GPU such a
            row's loss is NaN, it has no gradient, and `liger_jit.check()` raises the error.
    """
    mode = ops.choice("cross_entropy", "reduction", reduction, _REDUCTIONS)
    if num_items is not None:
        num_items = ops.as_num_items("cross_entropy", num_items, reduction, logits)
    options = (
        ignore_index,
        label_smoothing,
        lse_square_scale,
        0.0 if softcap is None else softcap,
        mode,
        token_scaling,
        return_token_accuracy,
        return_predicted_tokens,
    )
    outputs = ops.cross_entropy(
        ops.flat("cross_entropy", "logits", logits, 2),
        ops.flat("cross_entropy", "target", target, 1),
        ops.class_weights(weight, logits),
        num_items,
        *(() if options == _LOSS_DEFAULTS else options),
    )
    asked = (return_z_loss, return_token_accuracy, return_predicted_tokens)
    return _loss_output(outputs, target.shape, mode == 0, asked)


def fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ce_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    num_items: float | Tensor | None = None,
    token_scaling: bool = False,
    accum_dtype: torch.dtype | None = None,
    chunk_tokens: int = 0,
    memory: str = "auto",
    counted_tokens: int | None = None,
    return_z_loss: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
) -> Tensor | CrossEntropyOutput:
    """cross_entropy(input @ weight.T + bias, target) without ever holding all the logits.

    Tokens are taken in chunks: logits of a chunk, its loss, and its share of the gradients, so the
    memory above the gradients is about one chunk of logits, and for a loss alone that or nothing.
    `memory` may ask for less.

    Args:
        input: [..., H]; leading dimensions are flattened.
        weight: [V, H], of input's dtype. bias: [V] or None.
        target, ignore_index, reduction, label_smoothing, lse_square_scale, softcap, num_items: as
            in `cross_entropy`. ce_weight: its class weights.
        token_scaling: multiply each row's loss by the probability of its label, held constant
            (dynamic fine-tuning, arXiv:2508.05629).
        accum_dtype: what the weight's gradient is summed in over chunks: torch.float32, which is
            rounded once at the end, or weight's dtype. None takes weight's dtype for up to eight
            chunks and with memory="min", else float32.
        chunk_tokens: rows of a chunk; 0 chooses from the sizes and `memory`.
        memory: "auto" for speed, with at most 640 MiB of logits (or half the weight, if that is
            more); "min" for about as much memory above the gradients as that of input takes. Where
            chunks would be narrow then, the classes are taken in tiles, for a few groups of tokens
            at a time, and their logits made twice.
        counted_tokens: how many labels are not ignore_index, if the caller knows. Then products are
            made for those tokens only. A number that is too small gives a loss of NaN; one too
            large only costs time. On the CPU they are counted in the call.
        return_z_loss, return_token_accuracy, return_predicted_tokens: as in `cross_entropy`.

    Returns:
        As `cross_entropy`. Differentiable in input, weight and bias; the gradient of one that does
        not require it is not computed.

    Raises:
        ValueError: as `cross_entropy`, and for an accum_dtype or memory that is none of these.
    """
    mode = ops.choice("fused_linear_cross_entropy", "reduction", reduction, _REDUCTIONS)
    least = ops.choice("fused_linear_cross_entropy", "memory", memory, ops.MEMORY)
    sums = {None: 0, weight.dtype: 1, torch.float32: 2}
    accumulate = ops.choice("fused_linear_cross_entropy", "accum_dtype", accum_dtype, sums)
    if num_items is not None:
        num_items = ops.as_num_items("fused_linear_cross_entropy", num_items, reduction, input)
    tensors = (
        ops.flat("fused_linear_cross_entropy", "input", input, 2),
        weight,
        ops.flat("fused_linear_cross_entropy", "target", target, 1),
        bias,
        ops.class_weights(ce_weight, input),
    )
    options = (
        ignore_index,
        label_smoothing,
        lse_square_scale,
        0.0 if softcap is None else softcap,
        mode,
        token_scaling,
        return_token_accuracy,
        return_predicted_tokens,
        accumulate,
        chunk_tokens or least,
    )
    # One loss a row has one upstream gradient a row: its backward makes the logits anew.
    if mode == 0:
        outputs = ops.linear_cross_entropy_each(*tensors, *options)
    else:
        counted = -1 if counted_tokens is None else counted_tokens
        outputs = ops.fused_linear_cross_entropy(*tensors, num_items, *options, counted)
    asked = (return_z_loss, return_token_accuracy, return_predicted_tokens)
    return _loss_output(outputs, target.shape, mode == 0, asked)
