"""The feed-forward module gated by GELU: two projections, `functional.geglu`, one back."""

from torch import nn

from ..functional import geglu

# The activation names of Hugging Face configurations, and the form of GELU that each stands for.
_FORMS = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu": "none"}


class LigerGEGLUMLP(nn.Module):
    """down_proj(gelu(gate_proj(x)) * up_proj(x)): the Gemma families.

    The form of GELU is that of config.hidden_activation or config.hidden_act, tanh if it has none.
    """

    def __init__(self, config):
        super().__init__()
        activation = getattr(config, "hidden_activation", None)
        activation = activation or getattr(config, "hidden_act", None) or "gelu_pytorch_tanh"
        if activation not in _FORMS:
            allowed = ", ".join(repr(name) for name in _FORMS)
            raise ValueError(
                f"LigerGEGLUMLP: activation {activation!r} is not supported; allowed: {allowed}"
            )
        self.config = config
        self.approximate = _FORMS[activation]
        self.hidden_size = config.hidden_size
        self.intermediate_size = config.intermediate_size
        self.gate_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=False)
        self.up_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=False)
        self.down_proj = nn.Linear(self.intermediate_size, self.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x), self.approximate))
