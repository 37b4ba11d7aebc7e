"""Distillation of a language model's head from a teacher's, whose logits never exist as a whole."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops


class DistillationOutput(NamedTuple):
    """What `fused_linear_distillation` returns; only the loss is differentiable."""

    loss: Tensor
    soft_loss: Tensor
    hard_loss: Tensor  # 0 where it is neither weighed nor asked for


# The number of the operator's choice, and what beta has to be.
_DIVERGENCES = {
    "jsd": (0, None),
    "kl": (0, 0.0),
    "reverse_kl": (0, 1.0),
    "tvd": (1, 0.5),
    "cosine": (2, None),
}


def fused_linear_distillation(
    input: Tensor,
    weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    target: Tensor | None = None,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: str = "jsd",
    beta: float = 0.5,
    weight_hard_loss: float = 0.5,
    weight_soft_loss: float = 0.5,
    temperature: float = 1.0,
    ignore_index: int = -100,
    return_hard_loss: bool = False,
    accum_dtype: torch.dtype | None = None,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> DistillationOutput:
    """Distillation (arXiv:1503.02531) of a linear layer from a teacher's, from hidden states.

    With the logits x = input @ weight.T + bias of a token and the teacher's t, q = softmax(x / T)
    and p = softmax(t / T) at the temperature T, m = beta p + (1 - beta) q, the soft loss is

        jsd         beta KL(p, m) + (1 - beta) KL(q, m), and for beta 0 and 1 as the next two;
                    arXiv:2306.13649
        kl          KL(p, q) = sum p (log p - log q)
        reverse_kl  KL(q, p)
        tvd         sum |p - q| / 2
        cosine      beta (1 - cos(x, t))

    the hard loss is -log softmax(x)[target], without the temperature, and the loss is

        (weight_soft_loss sum(soft) + weight_hard_loss sum(hard)) / max(tokens that count, 1)

    Args:
        input: [..., H]; leading dimensions are flattened.
        weight: [V, H]. bias: [V] or None.
        teacher_input: [..., H'] of as many tokens. teacher_weight: [V, H']. teacher_bias: [V] or
            None. All of input's dtype: float32, bfloat16, float16, or float64 on the CPU. None has
            a gradient.
        target: int64, one label a token, or None, with a weight_hard_loss of 0. A token whose label
            is ignore_index counts nowhere, and may hold anything.
        beta: 0 to 1.
        return_hard_loss: make the hard loss though its weight is 0.
        accum_dtype, memory, counted_tokens: as in `fused_linear_cross_entropy`; a chunk has two
            rows of logits a token. "min" takes no tiles of classes.

    Returns:
        DistillationOutput of means, in float32, float64 for float64, on the device. Differentiable
        in input, weight and bias; the gradient of one that does not require it is not computed.
        Gradients are made in the forward: four products. A probability of zero adds nothing; where
        p = q, tvd has no gradient, and a row of zeros none of the cosine.

    Raises:
        ValueError: a divergence, accum_dtype or memory that is none of these, shapes, dtypes or
            devices that do not fit, numbers out of range. A label out of range where there is a
            hard loss: as `cross_entropy`; without one labels only say what is ignored.
        NotImplementedError: a tensor of the teacher requires grad.
    """
    op = "fused_linear_distillation"
    kind, fixed = ops.choice(op, "divergence", divergence, _DIVERGENCES)
    least = ops.choice(op, "memory", memory, ops.MEMORY)
    sums = {None: 0, weight.dtype: 1, torch.float32: 2}
    outputs = ops.fused_linear_distillation(
        ops.flat(op, "input", input, 2),
        weight,
        ops.flat(op, "teacher_input", teacher_input, 2),
        teacher_weight,
        target if target is None else ops.flat(op, "target", target, 1),
        bias,
        teacher_bias,
        kind,
        beta if fixed is None else fixed,
        weight_hard_loss,
        weight_soft_loss,
        temperature,
        ignore_index,
        return_hard_loss,
        ops.choice(op, "accum_dtype", accum_dtype, sums),
        least,
        False,  # exact, which logits always are
        ops.counted(counted_tokens),
    )
    return DistillationOutput(*outputs[:3])


def fused_linear_jsd(
    input: Tensor,
    weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    labels: Tensor | None = None,
    beta: float = 0.5,
    ignore_index: int = -100,
    temperature: float = 1.0,
    accum_dtype: torch.dtype | None = None,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> Tensor:
    """The generalised Jensen-Shannon divergence of a linear layer from a teacher's: the soft loss
    of `fused_linear_distillation` with "jsd", alone.

    Args:
        labels: int64, one a token, or None. Where it is ignore_index the token counts nowhere.
        Others: as there.

    Returns:
        The mean over the tokens that count, float32 (float64 for float64); 0 where none does.

    Raises: as `fused_linear_distillation`.
    """
    return fused_linear_distillation(
        input,
        weight,
        teacher_input,
        teacher_weight,
        labels,
        beta=beta,
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        temperature=temperature,
        ignore_index=ignore_index,
        accum_dtype=accum_dtype,
        memory=memory,
        counted_tokens=counted_tokens,
    ).loss
