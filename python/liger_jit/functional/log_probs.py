"""Log-probabilities of chosen ids, of logits or of a linear layer whose logits never exist as a
whole: what preference optimisation and reinforcement learning are made of."""

from torch import Tensor

from .. import ops

_MEMORY = {**ops.MEMORY, "fast": 0}


def selective_log_softmax(
    logits: Tensor, ids: Tensor, temperature: float = 1.0, ignore_index: int = -100
) -> Tensor:
    """log_softmax(logits / temperature) of one id a row: `gather` of it, without the rest.

    Args:
        logits: [..., V]; not changed.
        ids: [...] int64, each 0 to V - 1, or ignore_index: that row is not read, gives 0 and gets
            no gradient.
        temperature: what logits are divided by; positive.

    Returns:
        [...] in float32, float64 for float64. Differentiable in logits.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a temperature that is not positive.
            On the CPU also an id out of range, naming row and value; on a GPU such a row gives NaN
            and gets no gradient, and `liger_jit.check()` raises the error.
    """
    return ops.selective_log_softmax(
        ops.flat("selective_log_softmax", "logits", logits, 2),
        ops.flat("selective_log_softmax", "ids", ids, 1),
        temperature,
        0.0,
        ignore_index,
    )[0].view(ids.shape)


def linear_log_probs(
    input: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    memory: str = "auto",
    counted_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ids and entropies under a linear layer, by chunks of tokens.

    z = softcap * tanh(x / softcap) / temperature of x = input @ weight.T + bias, p = softmax(z);
    log_probs = log p[ids], entropy = -sum(p log p).

    Args:
        input: [..., H]; leading dimensions are flattened.
        weight: [V, H], of input's dtype. bias: [V] or None.
        ids: [...] int64, each 0 to V - 1, or ignore_index: log-probability and entropy are 0 there,
            and there is no gradient.
        temperature: positive. softcap: as in `cross_entropy`.
        memory: "auto" holds at most 640 MiB of logits (or half the weight, if that is more) at a
            time and makes them again in the backward: four products where input and weight are
            trained, three with a frozen weight. "min" makes the chunks smaller. "fast" keeps all
            logits for the backward, which saves that product.
        counted_tokens: how many ids are not ignore_index, as in `fused_linear_cross_entropy`; a
            number that is too small gives NaN.

    Returns:
        log_probs, entropy: [...] in float32, float64 for float64. Each is differentiable in input,
        weight and bias; the gradient of one that does not require it is not computed.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a temperature or softcap that is not
            positive, a memory that is none of these. An id out of range: as
            `selective_log_softmax`.
    """
    least = ops.choice("linear_log_probs", "memory", memory, _MEMORY)
    outputs = ops.linear_log_probs(
        ops.flat("linear_log_probs", "input", input, 2),
        weight,
        ops.flat("linear_log_probs", "ids", ids, 1),
        bias,
        temperature,
        0.0 if softcap is None else softcap,
        ignore_index,
        0,
        least,
        False,  # exact, which logits always are
        ops.counted(counted_tokens),
        memory == "fast",
    )
    return outputs[0].view(ids.shape), outputs[1].view(ids.shape)
