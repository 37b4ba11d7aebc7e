"""What is proved of a part is handed to what is made of it, and nothing is proved twice."""

from collections import Counter

import pytest
from liger_jit.patch import patch
from liger_jit.patch.installed import installed_in
from liger_jit.patch.rules import add_norm
from liger_jit.patch.rules import mlp as glu
from liger_jit.patch.rules import norm as norms
from liger_jit.patch.rules import rope as rotary
from tiny_models import FAMILIES, build
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb


@pytest.fixture
def probes(monkeypatch):
    """How often each question was put to a probe: what was looked for, of what, and where."""
    asked = Counter()

    def count(home, name, question):
        own = getattr(home, name)

        def counted(*args, **kwargs):
            asked[name, question(*args, **kwargs)] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(home, name, counted)

    def of_function(original, candidate, size, rotated, device="cpu", *rest, **named):
        code = getattr(candidate, "func", candidate).__code__
        return original, code, size, rotated, str(device), rest, *named.items()

    def of_layer(module, forward, proofs, device, *rest, **named):
        return add_norm.group(module), str(device), rest, *named.items()

    count(norms, "find_form", lambda module, *rest: norms.group_of(module))
    count(glu, "find_gate", lambda module, *rest: glu.group_of(module))
    count(rotary, "prove_function", of_function)
    count(add_norm, "check", of_layer)
    return asked


def proof_of(module):
    return installed_in(module).proof


@pytest.mark.parametrize("family", [*FAMILIES, "Gemma3"])
def test_nothing_is_proved_twice(family, probes):
    patch(build(family))
    assert {name for name, _ in probes} >= {"find_form", "find_gate", "prove_function", "check"}
    assert {question: times for question, times in probes.items() if times > 1} == {}


class AttentionOfItsOwn(LlamaAttention):
    """Another forward that calls the rotary function of its file."""

    def forward(self, hidden_states, position_embeddings, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        cos, sin = position_embeddings
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        q = q + k.repeat_interleave(self.num_key_value_groups, dim=1)
        return self.o_proj(q.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), None


def test_a_rotary_function_is_proved_once_for_all_forwards_that_call_it(probes):
    model = build()
    model.model.layers[1].self_attn.__class__ = AttentionOfItsOwn
    handle = patch(model)
    rows = {row.path: (row.role, row.status) for row in handle.report()}
    for layer in (0, 1):
        assert rows[f"model.layers.{layer}.self_attn"] == ("rope", "patched")
    rotations = [times for (name, _), times in probes.items() if name == "prove_function"]
    assert rotations and set(rotations) == {1}
    first, second = (proof_of(layer.self_attn) for layer in model.model.layers)
    assert first is not second
    assert first.functions[0] is second.functions[0]


def test_what_is_made_of_parts_holds_their_own_proofs():
    model = build("Qwen3")
    patch(model)
    for layer in model.model.layers:
        attention, of_sum = proof_of(layer.self_attn), proof_of(layer)
        assert of_sum.norms == {
            "self_attn": None,
            "mlp": None,
            "input_layernorm": proof_of(layer.input_layernorm),
            "post_attention_layernorm": proof_of(layer.post_attention_layernorm),
        }
        parts = layer.self_attn.q_norm, layer.self_attn.k_norm
        assert attention.norms == tuple(map(proof_of, parts))
        assert attention.rotation.role == "rope"
        assert attention.otherwise is attention.rotation
