"""Rotary position embedding under the name that models call it by."""

from .functional import liger_rope


def liger_rotary_pos_emb(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    """Stands in for `apply_rotary_pos_emb` of Hugging Face models: see `functional.liger_rope`."""
    return liger_rope(q, k, cos, sin, position_ids, unsqueeze_dim, rotary_dim)
