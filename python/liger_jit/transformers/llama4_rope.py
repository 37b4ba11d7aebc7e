"""Llama 4's rotary embeddings under the names that models call them by."""

from .functional import liger_llama4_text_rope, liger_llama4_vision_rope


def liger_llama4_text_rotary_pos_emb(xq, xk, freqs_cis):
    """Stands in for `apply_rotary_emb`: see `functional.liger_llama4_text_rope`."""
    return liger_llama4_text_rope(xq, xk, freqs_cis)


def liger_llama4_vision_rotary_pos_emb(query, key, freqs_ci):
    """Stands in for `vision_apply_rotary_emb`: see `functional.liger_llama4_vision_rope`."""
    return liger_llama4_vision_rope(query, key, freqs_ci)


def apply_liger_llama4_rope_full(modeling_module):
    """Puts both into a module of Llama 4's code, for all of its models."""
    modeling_module.apply_rotary_emb = liger_llama4_text_rotary_pos_emb
    modeling_module.vision_apply_rotary_emb = liger_llama4_vision_rotary_pos_emb
