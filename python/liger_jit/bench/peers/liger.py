"""Liger Kernel, with the defaults that its patches use."""

import torch
from liger_kernel import chunked_loss
from liger_kernel.transformers import functional
from liger_kernel.transformers.llama4_rope import liger_llama4_text_rotary_pos_emb

from .eager import EPS, of_all_heads

mhc_coeffs = functional.liger_mhc_coeffs
mhc_post_res = functional.liger_mhc_post_res
mhc_pre = functional.liger_mhc_pre
rope = functional.liger_rope
dyt = functional.liger_dyt
relu_squared = functional.liger_relu_squared
fused_linear_cross_entropy = functional.liger_fused_linear_cross_entropy


def rms_norm(x, weight):
    return functional.liger_rms_norm(x, weight, EPS)


def mrope(q, k, cos, sin):
    return functional.liger_qwen2vl_mrope(q, k, cos, sin, [16, 24, 24])


def complex_rope(q, k, freqs):
    factors = torch.view_as_complex(freqs.unflatten(-1, (-1, 2)))
    q, k = liger_llama4_text_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), factors)
    return q.transpose(1, 2), k.transpose(1, 2)


def qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    return rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)


def full_qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    q, k = of_all_heads(rms_norm, q, weight_q), of_all_heads(rms_norm, k, weight_k)
    return rope(q, k, cos, sin)


def fused_add_layer_norm(x, residual, weight, bias):
    total = x + residual
    return layer_norm(total, weight, bias), total


def fused_add_rms_norm(x, residual, weight):
    return functional.liger_fused_add_rms_norm(x, residual, weight, EPS)


def rms_norm_add(x, residual, weight):
    return residual + rms_norm(x, weight)


def layer_norm_add(x, residual, weight, bias):
    return residual + layer_norm(x, weight, bias)


def modulated_rms_norm(x, scale, shift, weight):
    return functional.liger_modulated_rms_norm(x, weight, scale, shift, EPS)


def layer_norm(x, weight, bias):
    return functional.liger_layer_norm(x, weight, bias, EPS)


def group_norm(x, weight, bias, num_groups):
    return functional.liger_group_norm(x, weight, bias, x.shape[1], num_groups, EPS)


def poly_norm(x, weight, bias):
    return functional.liger_poly_norm(x, weight, bias, EPS)


def swiglu(gate, up):
    return functional.liger_swiglu(gate, up)


def geglu(gate, up):
    return functional.liger_geglu(gate, up)


def embedding(weight, indices):
    # Not above: where an experimental part is missing, the others still run.
    from liger_kernel.ops import LigerEmbeddingFunction

    return LigerEmbeddingFunction.apply(weight, indices)


def experts(x, indices, weights, gate_up_weight, down_weight):
    from liger_kernel.ops import LigerFusedMoEFunction

    return LigerFusedMoEFunction.apply(x, gate_up_weight, down_weight, indices.int(), weights)


def packed_glu(gate_up):
    return functional.liger_swiglu(*gate_up.chunk(2, dim=-1))


def softmax(x):
    return functional.liger_softmax(x)


def sparsemax(x):
    return functional.liger_sparsemax(x)


def cross_entropy(logits, target):
    return functional.liger_cross_entropy(logits, target)


def attn_res(v, w_query, w_norm):
    return functional.liger_attn_res(v, w_query, w_norm, EPS)


def neighborhood_attention(q, k, v):
    return functional.liger_fused_neighborhood_attention(q, k, v, 7)


def multi_token_attention(scores, weight, bias):
    return functional.liger_multi_token_attention(scores, weight, bias)


def vocab_parallel_cross_entropy(logits, target):
    from liger_kernel.transformers import LigerVocabParallelCrossEntropy

    return LigerVocabParallelCrossEntropy()(logits.unsqueeze(1), target.unsqueeze(1)).flatten()


def fused_linear_cpo(input, weight, ids):
    loss, metrics = chunked_loss.LigerFusedLinearCPOLoss()(weight, input, ids)
    return loss, *metrics


def fused_linear_dpo(input, weight, ids, ref_input, ref_weight):
    dpo = chunked_loss.LigerFusedLinearDPOLoss()
    loss, metrics = dpo(weight, input, ids, ref_input=ref_input, ref_weight=ref_weight)
    return loss, *metrics


def fused_linear_grpo(input, weight, ids, token_mask, advantages, ref_log_probs, old_log_probs):
    loss, metrics = chunked_loss.LigerFusedLinearGRPOLoss()(
        input, weight, ids, token_mask, advantages, None, ref_log_probs, old_log_probs
    )
    return loss, *metrics


def fused_linear_kto(input, weight, ids, preference_labels, kl, ref_input, ref_weight):
    kto = chunked_loss.LigerFusedLinearKTOLoss(use_ref_model=True)
    labels = preference_labels.bool()
    loss, metrics = kto(input, weight, ids, None, labels, ref_input, ref_weight, kl=kl)
    return loss, *metrics


def fused_linear_orpo(input, weight, ids):
    loss, metrics = chunked_loss.LigerFusedLinearORPOLoss()(weight, input, ids)
    return loss, *metrics


def fused_linear_simpo(input, weight, ids):
    # Its module adds the negative log-likelihood, its function and the paper do not.
    simpo = chunked_loss.LigerFusedLinearSimPOLoss(compute_nll_loss=False)
    loss, metrics = simpo(weight, input, ids)
    return loss, *metrics


def linear_log_probs(input, weight, ids):
    # Not above: where a release lacks it, the others still run.
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
        input, weight, ids, return_entropy=True
    )
    return -nll, entropy


vocab_parallel_log_probs = linear_log_probs  # of a rank alone


def fused_linear_distillation(
    input,
    weight,
    teacher_input,
    teacher_weight,
    target,
    divergence="jsd",
    weight_hard_loss=0.5,
):
    jsd = chunked_loss.LigerFusedLinearJSDLoss(
        weight_hard_loss,
        beta=0.0 if divergence == "kl" else 0.5,
        return_soft_hard_loss=True,
    )
    loss, soft, hard = jsd(input, weight, teacher_input, teacher_weight, target)
    # It tells of a hard loss that counts nothing as well.
    return loss, soft, hard if weight_hard_loss else torch.zeros_like(hard)


def fused_linear_kl_div(input, weight, probabilities, target):
    return functional.liger_fused_linear_kl_div(input, weight, probabilities, target)


def kl_div(input, target):
    return functional.liger_kl_div(input, target)


def jsd(input, target, labels=None):
    return functional.liger_jsd(input, target, labels)


def tvd(input, target, labels=None):
    return functional.liger_tvd(input, target, labels)


def ce_tvd(student, teacher, target):
    # Not above: where a release lacks it, the others still run.
    from liger_kernel.transformers.fused_ce_tvd import LigerFusedCETVDLoss

    return LigerFusedCETVDLoss()(student, teacher, target)


def mhc_forward(x, phi, b, alpha_pre, alpha_post, alpha_res):
    return functional.liger_mhc_forward(
        x, torch.nn.Identity(), phi, b, alpha_pre, alpha_post, alpha_res
    )
