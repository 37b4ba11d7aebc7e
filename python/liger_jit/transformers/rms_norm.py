"""RMSNorm modules: one class, and the defaults that each model family wants of it.

`in_place` and `row_mode` are accepted for Liger Kernel's sake and do nothing: inputs are never
changed, and how many rows a block takes is tuned.
"""

import torch
from torch import nn

from ..functional import rms_norm
from ..ops import choice, choices

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
        choice("rms_norm", "casting_mode", casting_mode, choices("rms_norm", "casting_mode"))
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


class LigerRMSNormForGemma3(LigerRMSNorm):
    """Gemma 3: as Gemma; the size is called dim."""

    def __init__(
        self, dim, eps=1e-6, offset=1.0, casting_mode="gemma", init_fn="zeros", in_place=False
    ):
        super().__init__(dim, eps, offset, casting_mode, init_fn, in_place)


class LigerRMSNormForGemma4(LigerRMSNorm):
    """Gemma 4: the weight as it is, one rounding; with_scale=False has no weight."""

    def __init__(
        self,
        dim,
        eps=1e-6,
        offset=0.0,
        casting_mode="gemma",
        init_fn="ones",
        in_place=False,
        with_scale=True,
    ):
        super().__init__(
            dim, eps, offset, casting_mode, init_fn, in_place, elementwise_affine=with_scale
        )
        self.with_scale = with_scale


class LigerRMSNormForMuseGlimmer(LigerRMSNormForGemma4):
    """Muse Glimmer: as Gemma 4; without a weight it needs no dim."""

    def __init__(
        self,
        dim=None,
        eps=1e-6,
        offset=0.0,
        casting_mode="gemma",
        init_fn="ones",
        in_place=False,
        with_scale=True,
    ):
        if dim is None and with_scale:
            raise ValueError(
                "LigerRMSNormForMuseGlimmer: dim=None; allowed: the weight's length, or None with "
                "with_scale=False"
            )
        super().__init__(dim, eps, offset, casting_mode, init_fn, in_place, with_scale)


def _of_family(family, description, defaults, in_place):
    """The subclass LigerRMSNormFor<family>, which differs in the defaults of its arguments."""

    def __init__(
        self,
        hidden_size,
        eps=1e-6,
        offset=defaults["offset"],
        casting_mode=defaults["casting_mode"],
        init_fn=defaults["init_fn"],
        in_place=in_place,
        row_mode=None,
    ):
        LigerRMSNorm.__init__(
            self, hidden_size, eps, offset, casting_mode, init_fn, in_place, row_mode
        )

    name = f"LigerRMSNormFor{family}"
    __init__.__qualname__ = f"{name}.__init__"
    members = {"__init__": __init__, "__doc__": description, "__module__": __name__}
    return type(name, (LigerRMSNorm,), members)


# The normalised row is rounded once, after a factor of one plus a weight that starts at zero.
_GEMMA = {"offset": 1.0, "casting_mode": "gemma", "init_fn": "zeros"}
# It is rounded before the weight as well, which starts at one.
_LLAMA = {"offset": 0.0, "casting_mode": "llama", "init_fn": "ones"}

LigerRMSNormForGemma = _of_family("Gemma", "Gemma's form.", _GEMMA, in_place=True)
LigerRMSNormForGemma2 = _of_family("Gemma2", "Gemma 2: as Gemma.", _GEMMA, in_place=False)
LigerRMSNormForQwen3Next = _of_family("Qwen3Next", "Qwen3-Next: as Gemma.", _GEMMA, in_place=False)
LigerRMSNormForOlmo2 = _of_family("Olmo2", "OLMo 2: as Llama.", _LLAMA, in_place=False)
LigerRMSNormForGlm4 = _of_family("Glm4", "GLM-4: as Llama.", _LLAMA, in_place=False)
LigerRMSNormForMuseGlimmerTextCentered = _of_family(
    "MuseGlimmerTextCentered", "Muse Glimmer's text layers: as Gemma.", _GEMMA, in_place=False
)
