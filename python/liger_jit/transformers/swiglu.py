"""Feed-forward modules gated by SiLU: two projections, `functional.swiglu`, one projection back."""

from torch import nn

from ..functional import swiglu


def _refuse_other_activations(module, config):
    if config.hidden_act not in ("silu", "swish"):
        raise ValueError(
            f"{type(module).__name__}: config.hidden_act={config.hidden_act!r} is not supported; "
            "allowed: 'silu', 'swish'"
        )


class LigerSwiGLUMLP(nn.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)): Llama, Mistral, Qwen and their kin.

    The projections have a bias if config.mlp_bias says so.
    """

    def __init__(self, config, intermediate_size=None):
        super().__init__()
        _refuse_other_activations(self, config)
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = (
            config.intermediate_size if intermediate_size is None else intermediate_size
        )
        bias = getattr(config, "mlp_bias", False)
        self.gate_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=bias)
        self.up_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(self.intermediate_size, self.hidden_size, bias=bias)

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class LigerQwen3MoeSwiGLUMLP(LigerSwiGLUMLP):
    """One expert of Qwen3-MoE; pass config.moe_intermediate_size as intermediate_size."""


class LigerPhi3SwiGLUMLP(nn.Module):
    """Phi-3: gate and up come out of one projection and are read in place as its halves."""

    def __init__(self, config):
        super().__init__()
        _refuse_other_activations(self, config)
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = config.intermediate_size
        self.gate_up_proj = nn.Linear(self.hidden_size, 2 * self.intermediate_size, bias=False)
        self.down_proj = nn.Linear(self.intermediate_size, self.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(swiglu(gate, up))


class LigerBlockSparseTop2MLP(nn.Module):
    """One expert of Mixtral: w2(silu(w1(x)) * w3(x))."""

    def __init__(self, config):
        super().__init__()
        _refuse_other_activations(self, config)
        self.ffn_dim = config.intermediate_size
        self.hidden_dim = config.hidden_size
        self.w1 = nn.Linear(self.hidden_dim, self.ffn_dim, bias=False)
        self.w2 = nn.Linear(self.ffn_dim, self.hidden_dim, bias=False)
        self.w3 = nn.Linear(self.hidden_dim, self.ffn_dim, bias=False)

    def forward(self, x):
        return self.w2(swiglu(self.w1(x), self.w3(x)))
