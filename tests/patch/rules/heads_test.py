"""Queries, keys and values come to attention as they do without a patch: as views or not, and with
their histories."""

import pytest
import torch
from family_models import tiny
from liger_jit.patch import patch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Rotated whole and in part, by complex factors, with norms before and after a transpose and before
# and after a rotation, of heads and of tokens, and in some layers alone.
FAMILIES = (
    *("llama", "glm4", "gpt_neox", "cohere2", "llama4_text", "deepseek_v2", "qwen3", "olmo2"),
    *("exaone4", "exaone_moe", "smollm3", "gemma3_text", "hunyuan_v1_dense", "minimax_m2"),
)


def seen_in_a_step(model, inputs, monkeypatch):
    """(whether it is a view, whether it has a history, dtype) of the three at each attention."""
    own, seen = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def watching(module, *heads_and_more, **named):
        heads = heads_and_more[:3]
        seen.append([(x._is_view(), x.requires_grad, x.dtype) for x in heads])
        return own(module, *heads_and_more, **named)

    masks = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "watching", watching)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "watching", masks)
    model.set_attn_implementation("watching")
    model(**inputs)
    assert len(seen) >= model.config.num_hidden_layers
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_come_to_attention_as_eagers(family, dtype, monkeypatch):
    model, inputs = tiny(family)
    model = model.to(dtype)
    expected = seen_in_a_step(model, inputs, monkeypatch)
    rows = patch(model).report()
    assert any(row.patched and row.role in ("rope", "qk_norm_rope") for row in rows)
    assert seen_in_a_step(model, inputs, monkeypatch) == expected
