"""The feed-forward module gated by GELU: two projections, `functional.geglu`, one back."""

from torch import nn

from ..functional import geglu
from .swiglu import projections

# The activation names of Hugging Face configurations, and the form of GELU that each stands for.
_FORMS = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu": "none"}


def gelu_form(module, config):
    """The form of GELU that the configuration names: "tanh" or "none"; "tanh" if it names none."""
    activation = getattr(config, "hidden_activation", None)
    activation = activation or getattr(config, "hidden_act", None) or "gelu_pytorch_tanh"
    if activation not in _FORMS:
        allowed = ", ".join(repr(name) for name in _FORMS)
        raise ValueError(
            f"{type(module).__name__}: activation {activation!r} is not supported; "
            f"allowed: {allowed}"
        )
    return _FORMS[activation]


class LigerGEGLUMLP(nn.Module):
    """down_proj(gelu(gate_proj(x)) * up_proj(x)): the Gemma families.

    The form of GELU is that of config.hidden_activation or config.hidden_act, tanh if it has none.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.approximate = gelu_form(self, config)
        self.hidden_size = config.hidden_size
        self.intermediate_size = self._width(config)
        projections(self)

    def _width(self, config):
        return config.intermediate_size

    def forward(self, x):
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x), self.approximate))


class LigerGEGLUMLPForGemma4(LigerGEGLUMLP):
    """Gemma 4's text MLP: twice as wide in a layer that reuses another's keys and values, where
    config.use_double_wide_mlp says so."""

    def __init__(self, config, layer_idx=None):
        self.layer_idx = layer_idx
        super().__init__(config)

    def _width(self, config):
        wide = getattr(config, "use_double_wide_mlp", False) and self._reuses_keys(config)
        return config.intermediate_size * (2 if wide else 1)

    def _reuses_keys(self, config):
        if self.layer_idx is None:
            return False
        modes = getattr(config, "kv_sharing_modes", None)
        if modes is not None:
            return modes[self.layer_idx] == "reuse"
        # Releases of transformers without these modes have the last layers reuse them.
        sharing = getattr(config, "num_kv_shared_layers", 0)
        return self.layer_idx >= config.num_hidden_layers - sharing > 0
