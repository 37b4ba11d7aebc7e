"""The distance of a language model's head from probabilities that are given, such as those that a
teacher left in a file; the logits never exist as a whole."""

import torch
from torch import Tensor

from .. import ops

_REDUCTIONS = ops.choices("fused_linear_kl_div", "reduction")


def fused_linear_kl_div(
    input: Tensor,
    weight: Tensor,
    probabilities: Tensor,
    target: Tensor | None = None,
    bias: Tensor | None = None,
    reduction: str = "batchmean",
    temperature: float = 1.0,
    eps: float = 1e-10,
    ignore_index: int = -100,
    accum_dtype: torch.dtype | None = None,
    memory: str = "auto",
) -> Tensor:
    """Kullback-Leibler divergence of a linear layer from given probabilities p.

    With q = softmax((input @ weight.T + bias) / temperature), the sum over tokens of

        sum p (log(max(p, eps)) - log q),    0 where p is 0,

    as torch's KLDivLoss has it, divided by what the reduction says.

    Args:
        input: [..., H]; leading dimensions are flattened.
        weight: [V, H], of input's dtype: float32, bfloat16, float16, or float64 on the CPU. bias:
            [V] or None.
        probabilities: [..., V] of as many tokens, of any of these dtypes, rounded to input's chunk
            by chunk. They may sum to anything. No gradient.
        target: int64, one label a token, or None. A token whose label is ignore_index counts
            nowhere, and may hold anything; else labels change nothing.
        reduction: "batchmean", the tokens that count; "mean", these times V; "sum", nothing.
        eps: the least probability whose logarithm is taken.
        accum_dtype, memory: as in `fused_linear_cross_entropy`. "min" takes no tiles of classes.

    Returns:
        A float32 scalar, float64 for float64; 0 where no token counts. Differentiable in input,
        weight and bias; the gradient of one that does not require it is not computed. Gradients
        are made in the forward: three products.

    Raises:
        ValueError: a reduction, accum_dtype or memory that is none of these, shapes, dtypes or
            devices that do not fit, numbers out of range. A label out of range: as
            `cross_entropy`.
        NotImplementedError: probabilities require grad.
    """
    op = "fused_linear_kl_div"
    sums = {None: 0, weight.dtype: 1, torch.float32: 2}
    return ops.fused_linear_kl_div(
        ops.flat(op, "input", input, 2),
        weight,
        ops.flat(op, "probabilities", probabilities, 2),
        target if target is None else ops.flat(op, "target", target, 1),
        bias,
        ops.choice(op, "reduction", reduction, _REDUCTIONS),
        temperature,
        eps,
        ignore_index,
        ops.choice(op, "accum_dtype", accum_dtype, sums),
        ops.choice(op, "memory", memory, ops.MEMORY),
    )[0]
