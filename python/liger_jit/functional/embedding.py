"""Rows of a table by their indices."""

from torch import Tensor

from .. import ops


def embedding(weight: Tensor, indices: Tensor, padding_idx: int | None = None) -> Tensor:
    """y[...] = weight[indices[...]], with a gradient that is the same in each run.

    The gradient of a row of the weight is the sum of those of the places that name it, added in
    float32 in a fixed order and rounded once; it is dense, with zeros for rows that nobody names.

    Args:
        weight: [V, H].
        indices: of any shape, int64 or int32, from 0 to V-1.
        padding_idx: an index whose row gets no gradient; negative ones count from the end.

    Returns:
        [..., H], of weight's dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit, a padding_idx outside the table, more than
            2^21 indices on a GPU. On the CPU also an index out of range, naming its place and
            value; on a GPU its row is NaN, and `liger_jit.check()` raises the error.
    """
    if padding_idx is None:
        return ops.embedding(weight, indices)
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise ValueError(
            f"liger_jit::embedding: argument 'padding_idx' is {padding_idx}; "
            f"allowed: None, or {-rows} to {rows - 1}"
        )
    return ops.embedding(weight, indices, padding_idx % rows)
