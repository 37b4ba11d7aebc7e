"""RMSNorm modules: one class, and the defaults that each model family wants of it.

`in_place` and `row_mode` are accepted for Liger Kernel's sake and do nothing: inputs are never
changed, and how many rows a block takes is tuned.
"""

import torch
from torch import nn

from ..functional import rms_norm
from ..ops import CASTING_MODES, refuse

_INITIAL = {"ones": torch.ones, "zeros": torch.zeros}


def initial_weight(module, hidden_size, init_fn):
    """A new weight of [hidden_size] filled with ones or zeros, as init_fn says."""
    make = _INITIAL.get(init_fn)
    if make is None:
        raise ValueError(f"{type(module).__name__}: init_fn={init_fn!r}; allowed: 'ones', 'zeros'")
    return nn.Parameter(make(hidden_size))


class LigerRMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * (offset + weight), as `liger_jit.functional.rms_norm`."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        in_place=True,
        row_mode=None,
        elementwise_affine=True,
    ):
        super().__init__()
        if casting_mode not in CASTING_MODES:
            raise refuse("rms_norm", "casting_mode", casting_mode, CASTING_MODES)
        weight = initial_weight(self, hidden_size, init_fn) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.offset = offset
        self.casting_mode = casting_mode
        self.in_place = in_place
        self.row_mode = row_mode
        self.elementwise_affine = elementwise_affine

    def forward(self, hidden_states):
        return rms_norm(
            hidden_states, self.weight, self.variance_epsilon, self.offset, self.casting_mode
        )

    def extra_repr(self):
        return (
            f"{self.hidden_size}, eps={self.variance_epsilon}, offset={self.offset}, "
            f"casting_mode={self.casting_mode!r}"
        )


class LigerRMSNormForGemma(LigerRMSNorm):
    """Gemma: scaled by one plus a weight that starts at zero, rounded once."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=1.0,
        casting_mode="gemma",
        init_fn="zeros",
        in_place=True,
        row_mode=None,
    ):
        super().__init__(hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode)


class LigerRMSNormForGemma2(LigerRMSNorm):
    """Gemma 2: as Gemma."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=1.0,
        casting_mode="gemma",
        init_fn="zeros",
        in_place=False,
        row_mode=None,
    ):
        super().__init__(hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode)


class LigerRMSNormForGemma3(LigerRMSNorm):
    """Gemma 3: as Gemma; the size is called dim."""

    def __init__(
        self, dim, eps=1e-6, offset=1.0, casting_mode="gemma", init_fn="zeros", in_place=False
    ):
        super().__init__(dim, eps, offset, casting_mode, init_fn, in_place)


class LigerRMSNormForOlmo2(LigerRMSNorm):
    """OLMo 2: Llama's form."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        in_place=False,
        row_mode=None,
    ):
        super().__init__(hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode)


class LigerRMSNormForGlm4(LigerRMSNorm):
    """GLM-4: Llama's form."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=0.0,
        casting_mode="llama",
        init_fn="ones",
        in_place=False,
        row_mode=None,
    ):
        super().__init__(hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode)


class LigerRMSNormForQwen3Next(LigerRMSNorm):
    """Qwen3-Next: Gemma's form."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=1.0,
        casting_mode="gemma",
        init_fn="zeros",
        in_place=False,
        row_mode=None,
    ):
        super().__init__(hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode)
