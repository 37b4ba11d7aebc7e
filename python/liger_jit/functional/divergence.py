"""How far a student's distribution is from a teacher's: losses of two tensors of one shape."""

import torch
from torch import Tensor

from .. import ops

_REDUCTIONS = ops.choices("kl_div", "reduction")


def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    log_target: bool = False,
    eps: float = 1e-10,
) -> Tensor:
    """Kullback-Leibler divergence of log-probabilities from a target, as torch's.

        t * (log(max(t, eps)) - x),    or    exp(t) * (t - x)    with log_target

    for each element x of input and t of target, then reduced. What has probability zero in the
    target adds nothing, whatever x is. The gradient is made in the same pass over memory.

    Args:
        input: [..., V], log-probabilities; float32, bfloat16, float16, or float64 on the CPU.
        target: of input's shape and dtype: probabilities, or with log_target log-probabilities. It
            gets no gradient.
        reduction: "none"; "sum"; "mean", over all elements; "batchmean", the sum over the first
            dimension's size.
        eps: the least probability whose logarithm is taken.

    Returns:
        The loss: float32 (float64 for float64), a scalar, or of input's shape for "none".

    Raises:
        ValueError: reduction unknown, eps below 0, or shapes and dtypes that do not fit.
        NotImplementedError: target requires grad.
    """
    mode = ops.choice("kl_div", "reduction", reduction, _REDUCTIONS)
    shape = _shape("kl_div", input, target)
    batch = 1
    if reduction == "batchmean" and len(shape) != 2:
        mode, batch = _REDUCTIONS["sum"], shape[0]
    x, t = _rows(input), _rows(target)
    loss = ops.kl_div(x, t, mode, log_target, eps)[0]
    if mode == 0:
        return loss.view(shape)
    return loss if batch == 1 else loss / batch


def jsd(
    input: Tensor,
    target: Tensor,
    labels: Tensor | None = None,
    beta: float = 0.5,
    ignore_index: int = -100,
    reduction: str = "batchmean",
) -> Tensor:
    """Generalised Jensen-Shannon divergence of two rows of log-probabilities.

        m = beta * p + (1 - beta) * q,    p = exp(target),    q = exp(input)
        beta * p * (log p - log m) + (1 - beta) * q * (log q - log m)

    and KL(p, q) for beta = 0, KL(q, p) for beta = 1. Agarwal et al., "On-Policy Distillation of
    Language Models", arXiv:2306.13649. A probability of zero adds nothing. The gradient is made in
    the same pass over memory.

    Args:
        input: [..., V], the student's log-probabilities; float32, bfloat16, float16, or float64 on
            the CPU.
        target: of input's shape and dtype, the teacher's; it gets no gradient.
        labels: int64, one a row, or None. Rows whose label is ignore_index are not read, add
            nothing and have a gradient of zero.
        beta: 0 to 1.
        reduction: "none"; "sum"; "batchmean", the sum over the number of rows that count; "mean",
            that over V.

    Returns:
        The loss: float32 (float64 for float64), a scalar, or of input's shape for "none". If no row
        counts, a mean is NaN, as torch's are, and the gradient is zero.

    Raises:
        ValueError: reduction unknown, beta out of range, or shapes and dtypes that do not fit.
        NotImplementedError: target requires grad.
    """
    mode = ops.choice("jsd", "reduction", reduction, _REDUCTIONS)
    shape = _shape("jsd", input, target)
    loss = ops.jsd(_rows(input), _rows(target), labels, mode, ignore_index, beta)[0]
    return loss.view(shape) if mode == 0 else loss


def tvd(
    input: Tensor,
    target: Tensor,
    labels: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """Total variation distance of two rows of probabilities: |p - q| / 2 of each element.

    The gradient, of the sign of p - q, is zero where the two are equal. It is made in the same pass
    over memory.

    Args:
        input: [..., V], probabilities; float32, bfloat16, float16, or float64 on the CPU.
        target: of input's shape and dtype; it gets no gradient.
        labels, ignore_index, reduction: as in `jsd`.

    Returns, Raises: as `jsd`.
    """
    mode = ops.choice("tvd", "reduction", reduction, _REDUCTIONS)
    shape = _shape("tvd", input, target)
    loss = ops.tvd(_rows(input), _rows(target), labels, mode, ignore_index)[0]
    return loss.view(shape) if mode == 0 else loss


def ce_tvd(
    student: Tensor, teacher: Tensor, target: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Cross entropy and total variation distance from a teacher, of each row of logits.

        p = softmax(student),    q = softmax(teacher)
        ce = -log p[target],     tvd = sum |p - q| / 2

    Both rows are read once each way. Neither loss is reduced, so the caller weighs and divides.

    Args:
        student: [..., V], logits; float32, bfloat16, float16, or float64 on the CPU.
        teacher: of student's shape and dtype; it gets no gradient.
        target: int64, one label a row. Rows whose label is ignore_index are not read: both losses
            and the gradient are zero there.

    Returns:
        (ce, tvd), float32 (float64 for float64), of target's shape. Where p and q are equal the
        gradient of |p - q| is zero.

    Raises:
        ValueError: shapes or dtypes that do not fit; on the CPU also a label out of range. On a GPU
            such a row's losses are NaN, it has no gradient, and `liger_jit.check()` raises.
        NotImplementedError: teacher requires grad.
    """
    ce, tvd = ops.ce_tvd(
        ops.flat("ce_tvd", "student", student, 2),
        ops.flat("ce_tvd", "teacher", teacher, 2),
        ops.flat("ce_tvd", "target", target, 1),
        ignore_index,
    )[:2]
    return ce.view(target.shape), tvd.view(target.shape)


def _shape(op: str, input: Tensor, target: Tensor) -> torch.Size:
    """That of both, before they are made rows of: the operator would see equal rows."""
    for name, value in (("input", input), ("target", target)):
        if not isinstance(value, Tensor):
            ops.flat(op, name, value, 2)
    if input.shape != target.shape:
        raise ValueError(
            f"liger_jit::{op}: argument 'target' has shape {tuple(target.shape)}; "
            f"allowed: the shape of 'input', {tuple(input.shape)}"
        )
    return input.shape


def _rows(value: Tensor) -> Tensor:
    return value.flatten(0, -2) if value.dim() > 2 else torch.atleast_2d(value)
