"""Feed-forward modules gated by SiLU: two projections, `functional.swiglu`, one projection back."""

import torch
from torch import nn

from ..functional import experts, packed_glu, swiglu


def refuse_other_activations(module, config, option="hidden_act"):
    """For a module that is gated by SiLU, whatever the configuration says."""
    activation = getattr(config, option)
    if activation not in ("silu", "swish"):
        raise ValueError(
            f"{type(module).__name__}: config.{option}={activation!r} is not supported; "
            "allowed: 'silu', 'swish'"
        )


def projections(module, bias=False):
    """gate_proj, up_proj and down_proj of the module's sizes."""
    hidden, between = module.hidden_size, module.intermediate_size
    module.gate_proj = nn.Linear(hidden, between, bias=bias)
    module.up_proj = nn.Linear(hidden, between, bias=bias)
    module.down_proj = nn.Linear(between, hidden, bias=bias)


class LigerSwiGLUMLP(nn.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)): Llama, Mistral, Qwen and their kin.

    The projections have a bias if config.mlp_bias says so.
    """

    def __init__(self, config, intermediate_size=None):
        super().__init__()
        refuse_other_activations(self, config)
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = (
            config.intermediate_size if intermediate_size is None else intermediate_size
        )
        projections(self, getattr(config, "mlp_bias", False))

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class LigerQwen3MoeSwiGLUMLP(LigerSwiGLUMLP):
    """One expert of Qwen3-MoE; pass config.moe_intermediate_size as intermediate_size."""


class LigerSwiGLUMLPForMuseGlimmer(LigerSwiGLUMLP):
    """Muse Glimmer's text MLP; the activation is config.hidden_activation, or hidden_act."""

    def __init__(self, config):
        nn.Module.__init__(self)
        named = getattr(config, "hidden_activation", None) is not None
        refuse_other_activations(self, config, "hidden_activation" if named else "hidden_act")
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = config.intermediate_size
        projections(self)


class LigerHunyuanV1SwiGLUMLP(LigerSwiGLUMLP):
    """HunYuan V1, dense and the shared expert of its mixture; the last two arguments are the
    model's and change nothing."""

    def __init__(self, config, layer_idx=None, is_shared_mlp=False):
        super().__init__(config)
        self.layer_idx = layer_idx


class LigerFalconH1SwiGLUMLP(LigerSwiGLUMLP):
    """Falcon-H1: down_proj(silu(gate_proj(x) * gate_multiplier) * up_proj(x)) * down_multiplier.

    The multipliers are config.mlp_multipliers. The second is part of `functional.swiglu` where the
    last projection is a linear layer without a bias, which commutes with it.
    """

    def __init__(self, config):
        super().__init__(config)
        self.gate_multiplier, self.down_multiplier = map(float, config.mlp_multipliers)

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        if type(self.down_proj) is nn.Linear and self.down_proj.bias is None:
            return self.down_proj(swiglu(gate, up, self.gate_multiplier, self.down_multiplier))
        return self.down_proj(swiglu(gate, up, self.gate_multiplier)) * self.down_multiplier


class LigerPhi3SwiGLUMLP(nn.Module):
    """Phi-3: gate and up come out of one projection as its halves; its gradient is one tensor."""

    def __init__(self, config):
        super().__init__()
        refuse_other_activations(self, config)
        self.config = config
        self.hidden_size = config.hidden_size
        self.intermediate_size = config.intermediate_size
        self.gate_up_proj = nn.Linear(self.hidden_size, 2 * self.intermediate_size, bias=False)
        self.down_proj = nn.Linear(self.intermediate_size, self.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(packed_glu(self.gate_up_proj(x)))


class LigerBlockSparseTop2MLP(nn.Module):
    """One expert of Mixtral: w2(silu(w1(x)) * w3(x))."""

    def __init__(self, config):
        super().__init__()
        refuse_other_activations(self, config)
        self.ffn_dim = config.intermediate_size
        self.hidden_dim = config.hidden_size
        self.w1 = nn.Linear(self.hidden_dim, self.ffn_dim, bias=False)
        self.w2 = nn.Linear(self.ffn_dim, self.hidden_dim, bias=False)
        self.w3 = nn.Linear(self.hidden_dim, self.ffn_dim, bias=False)

    def forward(self, x):
        return self.w2(swiglu(self.w1(x), self.w3(x)))


def first_of(config, names):
    """The first of these settings that the configuration has; several name the same."""
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    raise ValueError(f"LigerExperts: config has none of {', '.join(names)}; allowed: one of them")


class LigerExperts(nn.Module):
    """`functional.experts` with SiLU: Mixtral, Qwen3-MoE, Qwen3-Next, DeepSeek and their kin.

    Parameters are gate_up_proj [E, 2 I, H] and down_proj [E, H, I], uninitialised, as transformers
    has them.
    """

    def __init__(self, config):
        super().__init__()
        refuse_other_activations(self, config)
        self.num_experts = first_of(
            config, ("num_experts", "num_local_experts", "n_routed_experts")
        )
        self.intermediate_dim = first_of(config, ("moe_intermediate_size", "intermediate_size"))
        self.hidden_dim = config.hidden_size
        shape = self.num_experts, 2 * self.intermediate_dim, self.hidden_dim
        self.gate_up_proj = nn.Parameter(torch.empty(shape))
        shape = self.num_experts, self.hidden_dim, self.intermediate_dim
        self.down_proj = nn.Parameter(torch.empty(shape))

    def forward(self, hidden_states, top_k_index, top_k_weights):
        """hidden_states: [..., H]; top_k_index, top_k_weights: [..., K]. Returns [..., H]."""
        return experts(hidden_states, top_k_index, top_k_weights, self.gate_up_proj, self.down_proj)
