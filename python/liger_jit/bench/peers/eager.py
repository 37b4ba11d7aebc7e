"""Eager PyTorch, as the modules of Hugging Face transformers are written.

On float64 inputs these are also what errors are measured against.
"""

import math

import torch
import torch.nn.functional as F

EPS = 1e-6
IGNORE_INDEX = -100


def _wide(x):
    """As `.float()` there, but float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x, weight):
    wide = _wide(x)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * normed.to(x.dtype)


def fused_add_layer_norm(x, residual, weight, bias):
    total = x + residual
    return layer_norm(total, weight, bias), total


def fused_add_rms_norm(x, residual, weight):
    total = x + residual
    return rms_norm(total, weight), total


def rms_norm_add(x, residual, weight):
    return residual + rms_norm(x, weight)


def layer_norm_add(x, residual, weight, bias):
    return residual + layer_norm(x, weight, bias)


def gated_rms_norm(x, gate, weight):
    wide = _wide(x)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return (weight * normed.to(x.dtype) * F.silu(_wide(gate))).to(x.dtype)


def modulated_rms_norm(x, scale, shift, weight):
    return rms_norm(x, weight) * (1 + scale) + shift


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def group_norm(x, weight, bias, num_groups):
    return F.group_norm(x, num_groups, weight, bias, EPS)


def poly_norm(x, weight, bias):
    def normed(power):
        return power * torch.rsqrt(power.pow(2).mean(-1, keepdim=True) + EPS)

    return weight[0] * normed(x**3) + weight[1] * normed(x**2) + weight[2] * normed(x) + bias


def dyt(x, alpha, gamma, beta):
    return gamma * torch.tanh(alpha * x) + beta


def relu_squared(x):
    return F.relu(x).square()


def swiglu(gate, up):
    return F.silu(gate) * up


def geglu(gate, up):
    return F.gelu(gate, approximate="tanh") * up


def packed_glu(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def clamped_swiglu(gate_up):
    gate, up = gate_up[..., ::2], gate_up[..., 1::2]
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


def activate(x, bias):
    return F.gelu(x + bias, approximate="tanh")


def rope(q, k, cos, sin):
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + _turned(q) * sin, k * cos + _turned(k) * sin


def mrope(q, k, cos, sin):
    """Qwen2-VL's sections, for heads of 128."""
    cos, sin = (
        torch.cat([one[i % 3] for i, one in enumerate(table.split(2 * [16, 24, 24], -1))], -1)
        for table in (cos, sin)
    )
    return rope(q, k, cos, sin)


def complex_rope(q, k, freqs):
    """Llama 4's, of heads in the third dimension."""
    factors = torch.view_as_complex(_wide(freqs).unflatten(-1, (-1, 2))).unsqueeze(2)

    def turned(x):
        x = x.transpose(1, 2)
        numbers = torch.view_as_complex(_wide(x).unflatten(-1, (-1, 2)))
        return torch.view_as_real(numbers * factors).flatten(3).type_as(x).transpose(1, 2)

    return turned(q), turned(k)


def qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    return rope(rms_norm(q, weight_q), rms_norm(k, weight_k), cos, sin)


def full_qk_norm_rope(q, k, weight_q, weight_k, cos, sin):
    q, k = of_all_heads(rms_norm, q, weight_q), of_all_heads(rms_norm, k, weight_k)
    return rope(q, k, cos, sin)


def of_all_heads(norm, x, weight):
    """The norm, which takes rows, of all heads of a token together."""
    tokens = x.transpose(1, 2)
    return norm(tokens.flatten(2), weight).view(tokens.shape).transpose(1, 2)


def attn_res(v, w_query, w_norm):
    wide = _wide(v)
    key = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS) * _wide(w_norm)
    score = (key * _wide(w_query)).sum(-1, keepdim=True)
    return (torch.softmax(score, 0) * wide).sum(0).to(v.dtype)


def mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res):
    streams = x.shape[-2]
    flat = _wide(x).flatten(-2)
    mix = flat @ _wide(phi) * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + EPS)
    pre, post, res = mix.split([streams, streams, streams * streams], -1)
    of_pre, of_post, of_res = _wide(b).split([streams, streams, streams * streams])
    h_pre = torch.sigmoid(pre * alpha_pre + of_pre)
    h_post = 2 * torch.sigmoid(post * alpha_post + of_post)
    h_res = (res * alpha_res + of_res).unflatten(-1, (streams, streams)).softmax(-1) + EPS
    h_res = h_res / (h_res.sum(-2, keepdim=True) + EPS)
    for _ in range(19):
        h_res = h_res / (h_res.sum(-1, keepdim=True) + EPS)
        h_res = h_res / (h_res.sum(-2, keepdim=True) + EPS)
    return h_pre, h_post, h_res


def mhc_pre(x, h_pre):
    return (h_pre.unsqueeze(-1) * _wide(x)).sum(-2).to(x.dtype)


def mhc_post_res(x, f_out, h_post, h_res):
    mixed = h_res @ _wide(x) + h_post.unsqueeze(-1) * _wide(f_out).unsqueeze(-2)
    return mixed.to(x.dtype)


def mhc_forward(x, phi, b, alpha_pre, alpha_post, alpha_res):
    h_pre, h_post, h_res = mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res)
    return mhc_post_res(x, mhc_pre(x, h_pre), h_post, h_res)


def _turned(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def int2_matmul(a, b):
    weights = torch.cat([(b >> shift & 3).to(torch.int8) - 1 for shift in (0, 2, 4, 6)])
    # Exact in float32 below 2^24; there is no product of int8 into int32 on every device.
    return (a.float() @ weights.float()).to(torch.int32)


def experts(x, indices, weights, gate_up_weight, down_weight):
    y = torch.zeros_like(x)
    for expert in range(len(gate_up_weight)):
        token, slot = torch.where(indices == expert)
        gate, up = F.linear(x[token], gate_up_weight[expert]).chunk(2, dim=-1)
        rows = F.linear(F.silu(gate) * up, down_weight[expert])
        y = y.index_add(0, token, rows * weights[token, slot, None])
    return y


def embedding(weight, indices):
    return F.embedding(indices, weight)


def softmax(x):
    return F.softmax(x, -1)


def sparsemax(x):
    descending = _wide(x).sort(-1, descending=True).values
    sums = descending.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=sums.dtype)
    last = (descending * count > sums).sum(-1, keepdim=True)
    above = _wide(x) - sums.gather(-1, last - 1) / last
    # No clamp, which gives an element at the threshold a gradient.
    return above.where(above > 0, 0).to(x.dtype)


def cross_entropy(logits, target):
    return F.cross_entropy(_wide(logits), target)


def vocab_parallel_cross_entropy(logits, target):
    return F.cross_entropy(_wide(logits), target, reduction="none")


def fused_linear_cross_entropy(input, weight, target):
    return cross_entropy(F.linear(input, weight), target)


def policy_loss(
    log_probs, token_mask, advantages, ref_log_probs, old_log_probs, beta=0.04, epsilon=0.2
):
    ratio = (log_probs - old_log_probs).exp()
    advantages = advantages.unsqueeze(-1)
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
    clipped = torch.where(advantages > 0, ratio > 1 + epsilon, ratio < 1 - epsilon)
    behind = ref_log_probs - log_probs
    kl = behind.exp() - behind - 1
    loss = beta * kl - torch.min(ratio * advantages, bounded * advantages)
    tokens = token_mask.sum().clamp(min=1)
    return tuple((one * token_mask).sum() / tokens for one in (loss, kl.detach(), clipped))


def fused_linear_grpo(input, weight, ids, **others):
    return policy_loss(selective_log_softmax(F.linear(input, weight), ids), **others)


def selective_log_softmax(logits, ids):
    return _wide(logits).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def linear_log_probs(input, weight, ids):
    log_p = _wide(F.linear(input, weight)).log_softmax(-1)
    log_probs = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return log_probs, -(log_p.exp() * log_p).sum(-1)


vocab_parallel_log_probs = linear_log_probs  # of a rank alone


def _sequences(input, weight, ids):
    """Sums of their log-probabilities, the numbers of tokens in them, sums of their logits."""
    logits = _wide(F.linear(input, weight))
    sums = logits.detach().sum((1, 2))
    counts = ids != IGNORE_INDEX
    log_probs = selective_log_softmax(logits, ids.clamp(min=0)) * counts
    return log_probs.sum(-1), counts.sum(-1), sums


def _of_pairs(formula, input, weight, ids, *reference, average=False, nll=False):
    """As TRL's trainers compute it, with their metrics; `formula` is of the two log-ratios."""
    log_probs, tokens, sums = _sequences(input, weight, ids)
    means = sums.view(2, -1).sum(1) / (sums.numel() / 2 * ids.shape[1] * weight.shape[0])
    nll_loss = torch.zeros_like(means[0])
    if nll:
        nll_loss = -log_probs.chunk(2)[0].sum() / tokens.chunk(2)[0].sum()
    log_probs = log_probs / tokens if average else log_probs
    ratios = log_probs
    if reference:
        with torch.no_grad():
            of_reference = _sequences(*reference, ids)[0]
        ratios = log_probs - of_reference
    loss = formula(*ratios.chunk(2)).mean() + nll_loss
    rewards = (0.1 * ratios).detach().chunk(2)
    return (loss, *log_probs.detach().chunk(2), *means, nll_loss.detach(), *rewards)


def _ahead(chosen, rejected):
    return -F.logsigmoid(0.1 * (chosen - rejected))


def fused_linear_cpo(input, weight, ids):
    return _of_pairs(_ahead, input, weight, ids, nll=True)


def fused_linear_dpo(input, weight, ids, ref_input, ref_weight):
    return _of_pairs(_ahead, input, weight, ids, ref_input, ref_weight)


def fused_linear_kto(input, weight, ids, preference_labels, kl, ref_input, ref_weight):
    """As TRL's trainer computes it, with its metrics."""
    log_probs, _, sums = _sequences(input, weight, ids)
    with torch.no_grad():
        of_reference = _sequences(ref_input, ref_weight, ids)[0]
    ratios = log_probs - of_reference
    chosen = preference_labels.bool()
    loss = 1 - torch.sigmoid(0.1 * torch.where(chosen, ratios - kl, kl - ratios))
    metrics = [
        (one.detach() * of_these).sum()
        for one in (log_probs, sums, 0.1 * ratios)
        for of_these in (chosen, ~chosen)
    ]
    return loss.mean(), *metrics


def fused_linear_orpo(input, weight, ids):
    odds = []

    def formula(chosen, rejected):
        ahead = chosen - rejected - torch.log1p(-chosen.exp()) + torch.log1p(-rejected.exp())
        odds.extend((F.logsigmoid(ahead).mean().detach(), ahead.mean().detach()))
        return -0.1 * F.logsigmoid(ahead)

    return *_of_pairs(formula, input, weight, ids, average=True, nll=True), *odds


def fused_linear_simpo(input, weight, ids):
    def formula(chosen, rejected):
        return -F.logsigmoid(0.1 * (chosen - rejected) - 0.5)

    return _of_pairs(formula, input, weight, ids, average=True)


def fused_linear_distillation(
    input,
    weight,
    teacher_input,
    teacher_weight,
    target,
    divergence="jsd",
    weight_hard_loss=0.5,
):
    """As a trainer computes it: divergences of log_softmax, and the cross entropy beside."""
    student = _wide(F.linear(input, weight))
    with torch.no_grad():
        log_p = _wide(F.linear(teacher_input, teacher_weight)).log_softmax(-1)
    log_q = student.log_softmax(-1)

    def kl(log_b, log_a):
        return F.kl_div(log_b, log_a, reduction="batchmean", log_target=True)

    if divergence == "kl":
        soft = kl(log_q, log_p)
    else:
        log_m = torch.logaddexp(log_q, log_p) - math.log(2)
        soft = (kl(log_m, log_p) + kl(log_m, log_q)) / 2
    loss, hard = soft / 2, torch.zeros_like(soft)
    if weight_hard_loss:
        hard = F.cross_entropy(student, target)
        loss = loss + weight_hard_loss * hard
    return loss, soft.detach(), hard.detach()


def fused_linear_kl_div(input, weight, probabilities, target):
    log_q = _wide(F.linear(input, weight)).log_softmax(-1)
    each = F.kl_div(log_q, _wide(probabilities), reduction="none").sum(-1)
    counts = target != IGNORE_INDEX
    return (each * counts).sum() / counts.sum()


def neighborhood_attention(q, k, v):
    place = torch.arange(q.shape[-2], device=q.device)
    window = (place[:, None] - place).abs() <= 3
    return F.scaled_dot_product_attention(q, k, v, attn_mask=window)


def multi_token_attention(scores, weight, bias):
    beyond = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    p = scores.masked_fill(beyond, float("-inf")).softmax(-1)
    beyond = beyond[: beyond.shape[0] - 2, : beyond.shape[1] - 2]
    return F.conv2d(p, weight, bias).masked_fill(beyond, 0)


def kl_div(input, target):
    return F.kl_div(_wide(input), _wide(target), reduction="none").mean()  # "mean" warns


def jsd(input, target, labels=None):
    q, p = _wide(input), _wide(target)
    log_m = torch.lerp(q.exp(), p.exp(), 0.5).log()
    divergences = [F.kl_div(log_m, one, reduction="batchmean", log_target=True) for one in (p, q)]
    return sum(divergences) / 2


def tvd(input, target, labels=None):
    return (_wide(input) - _wide(target)).abs().mean() / 2


def ce_tvd(student, teacher, target):
    ce = F.cross_entropy(_wide(student), target, reduction="none")
    return ce, (softmax(_wide(student)) - softmax(_wide(teacher))).abs().sum(-1) / 2
