"""Rotary position embeddings under the names that models call them by."""

from .. import functional as F
from .functional import liger_rope


def liger_rotary_pos_emb(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    """Stands in for `apply_rotary_pos_emb` of Hugging Face models: see `functional.liger_rope`."""
    return liger_rope(q, k, cos, sin, position_ids, unsqueeze_dim, rotary_dim)


def liger_rotary_pos_emb_gpt_oss(q, k, cos, sin):
    """Stands in for gpt-oss's `apply_rotary_pos_emb`: q, k [B, H, T, D]; cos, sin [B, T, D/2]."""
    return F.rope(q, k, cos, sin, half_tables=True)


def liger_rotary_pos_emb_vision(q, k, cos, sin):
    """Stands in for `apply_rotary_pos_emb_vision` of Qwen's towers: q, k [T, H, D] or [B, T, H, D];
    cos, sin [T, D] or [1 or B, T, D]. Angles are taken as they are, float32 ones in float32.
    """
    if q.dim() == 4:
        return F.rope(q, k, cos, sin, 2)
    q, k = F.rope(q.unsqueeze(0), k.unsqueeze(0), cos, sin, 2)
    return q.squeeze(0), k.squeeze(0)
