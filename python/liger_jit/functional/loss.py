"""Cross entropy of logits, and of hidden states and a head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops

_REDUCTIONS = ops.choices("cross_entropy", "reduction")
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
    if per_row and len(shape) != 1:  # else a write into the view would leave its hooks behind
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
    exact: bool = False,
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
            large only costs time. On the CPU they are counted in the call, and only a number that
            is too large changes anything.
        exact: True makes logits where their exponentials would be quicker: in bfloat16 on a GPU of
            compute capability 9.0, with many classes and no option beyond a label and a reduction.
            An element of the gradients' products is then rounded once in place of twice; it costs
            a reading and a writing of each chunk's logits.
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
        exact,
        ops.counted(counted_tokens),
    )
    # One loss a row has one grad_output gradient a row: its backward makes the logits anew.
    if mode == 0:
        outputs = ops.linear_cross_entropy_each(*tensors, *options)
    else:
        outputs = ops.fused_linear_cross_entropy(*tensors, num_items, *options)
    asked = (return_z_loss, return_token_accuracy, return_predicted_tokens)
    return _loss_output(outputs, target.shape, mode == 0, asked)
