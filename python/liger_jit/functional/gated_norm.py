"""RMS norms with a gate: of linear attention and state space layers."""

from torch import Tensor

from .. import ops

_CASTING_MODES = ops.choices("gated_rms_norm", "casting_mode")
_ACTIVATIONS = ops.choices("gated_rms_norm", "activation")


def gated_rms_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    activation: str = "silu",
    gate_first: bool = False,
    group_size: int | None = None,
    casting_mode: str = "llama",
) -> Tensor:
    """Root mean square normalisation and a gate, in one pass over memory.

        y = x / rms(x) * (offset + weight) * act(gate)
        gate_first:  v = x * act(gate);  y = v / rms(v) * (offset + weight)
        rms(v) = sqrt(mean(v^2) + eps), of each group of the last dimension

    Dao and Gu, "Transformers are SSMs", arXiv:2405.21060; Yang, Kautz and Hatamizadeh, "Gated Delta
    Networks", arXiv:2412.06464.

    | modules of | gate_first | group_size | activation | casting_mode |
    |---|---|---|---|---|
    | Qwen3-Next, Qwen3.5, OLMo hybrid | False | None | "silu" | "llama" |
    | Kimi Linear, Bailing hybrid | False | None | "sigmoid" | "none" |
    | Flash Linear Attention | False | None | "silu" or "sigmoid" | "none" |
    | Mamba-2, Zamba-2, Bamba, Nemotron-H | True | theirs | "silu" | "llama" |
    | Falcon-H1 | not norm_before_gate | H / groups | "silu" | "none" |

    Args:
        x: [..., H]; dtypes as in `rms_norm`.
        gate: of x's shape, in a dtype of its own.
        weight: [H], or None for a scale of one.
        eps, offset: as in `rms_norm`.
        activation: "silu", g / (1 + exp(-g)), or "sigmoid", 1 / (1 + exp(-g)).
        gate_first: the gate is applied before the norm.
        group_size: each group of so many neighbours is normalised by itself; a divisor of H. None:
            the whole row.
        casting_mode: where the original module rounds. "llama": the normalised value is rounded to
            x's dtype before the weight, and before a gate that follows once more, if the weight has
            that dtype. "gemma" and "none": one rounding, at the end.

    Returns y, of x's shape and dtype.

    Raises:
        ValueError: an option is none of those named, dtype not supported, float64 mixed with
            others, gate not of x's shape, weight not [H], group_size no divisor, or tensors on
            different devices.
    """
    mode = ops.choice("gated_rms_norm", "casting_mode", casting_mode, _CASTING_MODES)
    act = ops.choice("gated_rms_norm", "activation", activation, _ACTIVATIONS)
    if group_size is not None and group_size < 1:
        raise ops.refuse("gated_rms_norm", "group_size", group_size, (None, "a divisor of H"))
    size = group_size or 0
    return ops.gated_rms_norm(x, gate, weight, eps, offset, mode, act, gate_first, size)[0]
