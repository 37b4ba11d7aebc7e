"""Random models of a few thousand parameters, and what is compared between two runs of one.

All families share one set of widths, so that the whole folder compiles few kernels.
"""

import copy
from collections import Counter
from contextlib import contextmanager

import torch
import transformers
from liger_jit import functional
from liger_jit.patch import patch
from torch import nn
from torch.utils.checkpoint import checkpoint

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Phi3")
VOCABULARY = 97
SETTINGS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
# Phi3 has no head_dim of its own, and rotates a part of each head.
OWN_SETTINGS = {
    "Phi3": {"partial_rotary_factor": 0.5},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 4},
}
OWN_CONFIG = {"Gemma3": "Gemma3TextConfig"}


def build(family="Llama", dtype=torch.float32, **settings):
    """A model in training mode whose norm weights and head are far from their initial values."""
    torch.manual_seed(4)
    settings = {**SETTINGS, **OWN_SETTINGS.get(family, {}), **settings}
    config = getattr(transformers, OWN_CONFIG.get(family, f"{family}Config"))(**settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "lm_head" in name or "embed" in name:
                # Logits of a few units: errors of a softcap or a scale are then seen.
                parameter.mul_(20.0)
    return model.to(dtype).train()


class Checkpointed(nn.Module):
    """A head that its model runs again in the backward."""

    def __init__(self, head, use_reentrant=False):
        super().__init__()
        self.head, self.use_reentrant = head, use_reentrant

    def forward(self, x):
        return checkpoint(self.head, x, use_reentrant=self.use_reentrant)


class LowRank(nn.Module):
    """Shaped like an adapter layer of PEFT: the linear layer is `base_layer`."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.down = nn.Linear(self.in_features, 2, bias=False)
        self.up = nn.Linear(2, self.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def adapt(model):
    """Puts adapters around some projections of each layer."""
    for layer in model.model.layers:
        layer.mlp.gate_proj = LowRank(layer.mlp.gate_proj)
        layer.self_attn.q_proj = LowRank(layer.self_attn.q_proj)


def batch(ignored=True, batch_size=2, tokens=11):
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(3, VOCABULARY, (batch_size, tokens), generator=generator)
    labels = ids.clone()
    if ignored:
        labels[0, :3] = -100
        labels[1, -2:] = -100
    return {"input_ids": ids, "labels": labels}


def loss_and_gradients(model, **inputs):
    return gradients_of(model(**(inputs or batch())).loss, model)


def gradients_of(loss, model):
    """(loss, gradients by name) of a backward; the model has none before and after it."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def steps_of(kind, call=lambda model: model, **attributes):
    """(loss, gradients) of a step of a model of that class without a patch and with one: the class
    gives its loss by name. call: what is called in the model's place."""
    results = []
    for patched in (False, True):
        model = build(num_hidden_layers=1)
        model.__class__ = kind
        for name, value in attributes.items():
            setattr(model, name, value)
        if patched:
            patch(model)
        inputs = {name: batch()[name] for name in ("input_ids", "labels")}
        results.append(gradients_of(call(model)(**inputs)["loss"], model))
    return results


def error(value, reference):
    reference = reference.double()
    return ((value.double() - reference).norm() / reference.norm().clamp_min(1e-30)).item()


def assert_same_step(found, expected, tolerance=2e-5):
    """Two (loss, gradients) of one model agree: the loss, and each gradient by its norm."""
    assert error(found[0], expected[0]) <= tolerance
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert error(found[1][name], gradient) <= tolerance, name


def in_float32(model):
    return copy.deepcopy(model).float()


def shape_of(model):
    """What a patch may leave behind: the keys of every module's __dict__, and its hooks."""
    return {
        path: {
            key: sorted(value) if key.endswith("hooks") else None
            for key, value in module.__dict__.items()
        }
        for path, module in model.named_modules()
    }


@contextmanager
def counted(monkeypatch):
    """Counts the calls of `liger_jit.functional` by name."""
    calls = Counter()

    def spy(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in (
            "rms_norm",
            "fused_add_rms_norm",
            "rms_norm_add",
            "gated_rms_norm",
            "activate",
            "relu_squared",
            "layer_norm",
            "fused_add_layer_norm",
            "layer_norm_add",
            "swiglu",
            "geglu",
            "gated_mlp",
            "rope",
            "qk_norm_rope",
            "full_qk_norm_rope",
            "complex_rope",
            "cross_entropy",
            "fused_linear_cross_entropy",
        ):
            patched.setattr(functional, name, spy(name, getattr(functional, name)))
        yield calls
