"""The rotary embedding of Qwen-VL models under the name that models call it by."""

from .functional import liger_qwen2vl_mrope


def liger_multimodal_rotary_pos_emb(q, k, cos, sin, mrope_section, unsqueeze_dim=1):
    """Stands in for `apply_multimodal_rotary_pos_emb`: see `functional.liger_qwen2vl_mrope`."""
    return liger_qwen2vl_mrope(q, k, cos, sin, mrope_section, unsqueeze_dim)
