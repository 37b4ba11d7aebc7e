"""Losses of one's own on the bases of Liger Kernel's names: each subclass is written as one that
is written for Liger Kernel, and measured against the whole loss in torch, in float64."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from accuracy import relative_error
from liger_jit.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase
from liger_jit.chunked_loss.fused_linear_preference import LigerFusedLinearPreferenceBase
from liger_jit.chunked_loss.fused_linear_unpaired_preference import (
    LigerFusedLinearUnpairedPreferenceBase,
)

IGNORED = -100
SEQUENCES, TOKENS, HIDDEN, CLASSES = 6, 7, 16, 37


class OfPairs(LigerFusedLinearPreferenceBase):
    @staticmethod
    def preference_loss_fn(
        chosen_logps,
        rejected_logps,
        full_target,
        beta=0.1,
        power=2,
        ref_chosen_logps=0.0,
        ref_rejected_logps=0.0,
    ):
        margin = beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
        loss = F.softplus(-margin).pow(power).sum() / (full_target.shape[0] // 2)
        return loss, beta * chosen_logps, margin.sum()

    @classmethod
    def forward(
        cls,
        ctx,
        _input,
        weight,
        target,
        bias=None,
        nll_target=None,
        reference=(None, None, None),
        average=True,
        compute_nll_loss=True,
    ):
        return super().forward(
            cls=cls,
            ctx=ctx,
            _input=_input,
            weight=weight,
            target=target,
            bias=bias,
            alpha=0.3,
            beta=0.2,
            nll_target=nll_target,
            compute_nll_loss=compute_nll_loss,
            use_ref_model=reference[0] is not None,
            ref_input=reference[0],
            ref_weight=reference[1],
            ref_bias=reference[2],
            average_log_prob=average,
            power=3,
        )

    @staticmethod
    def backward(ctx, *grad_output):
        gradients = LigerFusedLinearPreferenceBase.backward(ctx, grad_output)[:4]
        return *gradients, None, None, None, None


class OfSequences(LigerFusedLinearUnpairedPreferenceBase):
    @staticmethod
    def preference_loss_fn(
        log_prob_chunk, preference_labels_chunk, full_target, ref_log_prob_chunk=None, beta=0.1
    ):
        ratios = log_prob_chunk
        if ref_log_prob_chunk is not None:
            ratios = ratios - ref_log_prob_chunk
        signs = torch.where(preference_labels_chunk, 1, -1)
        losses = 1 - torch.sigmoid(beta * ratios * signs)
        return losses.sum() / full_target.shape[0], (ratios * preference_labels_chunk).sum()

    @classmethod
    def forward(cls, ctx, _input, weight, target, labels, bias=None, reference=None, average=False):
        return super().forward(
            cls=cls,
            ctx=ctx,
            _input=_input,
            weight=weight,
            target=target,
            preference_labels=labels,
            bias=bias,
            use_ref_model=reference is not None,
            ref_input=None if reference is None else reference[0],
            ref_weight=None if reference is None else reference[1],
            ref_bias=None if reference is None else reference[2],
            average_log_prob=average,
            beta=0.05,
        )

    @staticmethod
    def backward(ctx, *grad_output):
        gradients = LigerFusedLinearUnpairedPreferenceBase.backward(ctx, grad_output)[:5]
        return *gradients, None, None


class OfTokens(LigerFusedLinearPPOBase):
    @staticmethod
    def ppo_loss_fn(
        per_token_logps,
        attention_mask,
        advantages,
        full_attention_mask,
        ref_per_token_logps=None,
        old_per_token_logps=None,
        epsilon_low=0.2,
        vllm_is_ratio=None,
        **others,
    ):
        old = per_token_logps.detach() if old_per_token_logps is None else old_per_token_logps
        ratio = torch.exp(per_token_logps - old)
        gain = torch.minimum(ratio, ratio.clamp(1 - epsilon_low, 1 + others["epsilon_high"]))
        losses = -gain * advantages.unsqueeze(1) * attention_mask
        if vllm_is_ratio is not None:
            losses = losses * vllm_is_ratio
        if ref_per_token_logps is not None:
            losses = losses + (per_token_logps - ref_per_token_logps).square() * attention_mask
        return losses.sum() / full_attention_mask.sum(), [(ratio * attention_mask).sum()]

    @classmethod
    def forward(cls, ctx, _input, weight, ids, mask, advantages, bias=None, options=None):
        return super().forward(
            cls=cls,
            ctx=ctx,
            _input=_input,
            weight=weight,
            selected_token_ids=ids,
            attention_mask=mask,
            advantages=advantages,
            bias=bias,
            temperature=0.8,
            **(options or {}),
        )

    @staticmethod
    def backward(ctx, grad_output, *grad_metrics):
        return *LigerFusedLinearPPOBase.backward(ctx, grad_output)[:6], None


def layer(device, dtype):
    return [
        torch.randn(SEQUENCES, TOKENS, HIDDEN, device=device).to(dtype),
        (torch.randn(CLASSES, HIDDEN, device=device) / 4).to(dtype),
        torch.randn(CLASSES, device=device).to(dtype),
    ]


def targets(device):
    ids = torch.randint(CLASSES, (SEQUENCES, TOKENS), device=device)
    ids[:, :2] = IGNORED
    return ids


def token_log_probs(input, weight, bias, ids, temperature=1.0):
    logits = (input @ weight.t() + (0 if bias is None else bias)) / temperature
    chosen = logits.log_softmax(-1).gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    return torch.where(ids == IGNORED, 0, chosen)


def log_probs(input, weight, bias, ids, average):
    sums = token_log_probs(input, weight, bias, ids).sum(1)
    return sums / (ids != IGNORED).sum(1) if average else sums


def exact(tensors):
    return [one.double() for one in tensors]


def check(run, truth, tensors, frozen=(), tolerance=1e-5):
    """Losses, metrics and gradients of tensors, of one backward beside that of a scaled loss."""

    def result(function, leaves):
        leaves = [one.detach().requires_grad_(i not in frozen) for i, one in enumerate(leaves)]
        loss, metrics = function(*leaves)
        (loss * 0.7).backward()
        assert loss.requires_grad and not any(one.requires_grad for one in metrics)
        return [loss.detach(), *metrics], [one.grad for one in leaves]

    values, gradients = result(run, tensors)
    wanted, wanted_gradients = result(truth, exact(tensors))
    for i, (one, other) in enumerate(zip(values, wanted, strict=True)):
        assert one.shape == other.shape and one.device == tensors[0].device
        assert relative_error(one, other) < tolerance, i
    for i, (one, other) in enumerate(zip(gradients, wanted_gradients, strict=True)):
        assert (one is None) == (i in frozen)
        if one is not None:
            assert relative_error(one, other) < tolerance, i


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("nll", [None, "target", "nll_target"])
def test_a_loss_of_pairs(device, average, with_reference, nll, frozen):
    ids = targets(device)
    of_nll = targets(device) if nll == "nll_target" else None
    reference = layer(device, torch.float32) if with_reference else [None] * 3

    def run(input, weight, bias):
        return OfPairs.apply(
            input, weight, ids, bias, of_nll, tuple(reference), average, nll is not None
        )

    def truth(input, weight, bias):
        logps = log_probs(input, weight, bias, ids, average)
        others = {}
        if with_reference:
            ref = log_probs(*exact(reference), ids, average)
            others = dict(
                zip(("ref_chosen_logps", "ref_rejected_logps"), ref.chunk(2), strict=True)
            )
        loss, *metrics = OfPairs.preference_loss_fn(
            *logps.chunk(2), ids, beta=0.2, power=3, **others
        )
        labels = (ids if of_nll is None else of_nll)[: SEQUENCES // 2]
        chosen = token_log_probs(input[: SEQUENCES // 2], weight, bias, labels)
        mean = -chosen.sum() / (labels != IGNORED).sum() if nll else torch.zeros_like(loss)
        logits = (input @ weight.t() + bias).detach().chunk(2)
        return loss + 0.3 * mean, [
            one.detach()
            for one in (*logps.chunk(2), *(one.mean() for one in logits), mean, *metrics)
        ]

    check(run, truth, layer(device, torch.float32), frozen)


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_a_loss_of_sequences(device, average, with_reference, frozen):
    ids = targets(device)
    labels = torch.tensor([True, False, True, True, False, False], device=device)
    reference = layer(device, torch.float32) if with_reference else None

    def run(input, weight, bias):
        return OfSequences.apply(input, weight, ids, labels, bias, reference, average)

    def truth(input, weight, bias):
        logps = log_probs(input, weight, bias, ids, average)
        ref = log_probs(*exact(reference), ids, average) if with_reference else None
        loss, metric = OfSequences.preference_loss_fn(logps, labels, ids, ref, beta=0.05)
        logits = (input @ weight.t() + bias).sum((1, 2))
        sums = [part[chosen].sum() for part in (logps, logits) for chosen in (labels, ~labels)]
        return loss, [one.detach() for one in (*sums, metric)]

    check(run, truth, layer(device, torch.float32), frozen)


@pytest.mark.parametrize("reference", [None, "logps", "model"])
@pytest.mark.parametrize("ratio_dims", [None, 1, 2])
def test_a_loss_of_tokens(device, reference, ratio_dims):
    tensors = layer(device, torch.float32)
    ids = targets(device).clamp_min(0)
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    advantages = torch.randn(SEQUENCES, device=device)
    old = token_log_probs(*tensors, ids, 0.8) + torch.randn_like(ids.float()) / 3
    model = layer(device, torch.float32)
    ref = token_log_probs(*exact(model), ids, 0.8)
    options = {"old_per_token_logps": old, "epsilon_high": 0.3}
    if reference == "logps":
        options |= {"use_ref_model": True, "ref_per_token_logps": ref.float()}
    if reference == "model":
        names = ("ref_input", "ref_weight", "ref_bias")
        options |= {"use_ref_model": True, **dict(zip(names, model, strict=True))}
    ratio = None
    if ratio_dims:
        ratio = torch.rand(SEQUENCES, *[1] * (ratio_dims - 1), device=device)
        options["vllm_is_ratio"] = ratio

    def run(input, weight, bias):
        return OfTokens.apply(input, weight, ids, mask, advantages, bias, options)

    def truth(input, weight, bias):
        loss, metrics = OfTokens.ppo_loss_fn(
            token_log_probs(input, weight, bias, ids, 0.8),
            mask,
            advantages.double(),
            mask,
            None if reference is None else ref,
            old.double(),
            vllm_is_ratio=None if ratio is None else ratio.double().view(-1, 1),
            epsilon_high=0.3,
        )
        return loss, [one.detach() for one in metrics]

    check(run, truth, tensors)


def test_a_loss_runs_backward_twice_and_without_a_gradient(device):
    tensors = [one.requires_grad_() for one in layer(device, torch.bfloat16)]
    ids = targets(device)
    loss, _ = OfPairs.apply(tensors[0], tensors[1], ids, tensors[2])
    once = torch.autograd.grad(loss, tensors, retain_graph=True)
    assert all(map(torch.equal, once, torch.autograd.grad(loss, tensors)))
    with torch.no_grad():
        alone, _ = OfPairs.apply(tensors[0], tensors[1], ids, tensors[2])
    assert not alone.requires_grad and torch.equal(alone, loss)


def test_no_logits_of_all_tokens_exist(device):
    tensors = [one.requires_grad_() for one in layer(device, torch.float32)]
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            made = function(*arguments, **(keywords or {}))
            for one in torch.utils._pytree.tree_leaves(made):
                if isinstance(one, torch.Tensor):
                    largest = max(largest, one.numel())
            return made

    with Sizes():
        OfPairs.apply(tensors[0], tensors[1], targets(device), tensors[2])[0].backward()
    assert 0 < largest < SEQUENCES * TOKENS * CLASSES


def test_a_subclass_without_a_loss_and_a_policy_without_its_reference_are_refused(device):
    tensors = layer(device, torch.float32)
    ids = targets(device)

    class Empty(OfPairs):
        preference_loss_fn = LigerFusedLinearPreferenceBase.preference_loss_fn

    with pytest.raises(NotImplementedError, match="preference_loss_fn"):
        Empty.apply(tensors[0], tensors[1], ids, tensors[2])
    with pytest.raises(ValueError, match="use_ref_model is True.*allowed"):
        OfTokens.apply(
            tensors[0], tensors[1], ids, ids, ids[:, 0], tensors[2], {"use_ref_model": True}
        )


def test_arguments_are_those_of_liger_kernel():
    reference = "ref_input=None, ref_weight=None, ref_bias=None"
    for base, wanted in [
        (
            LigerFusedLinearPreferenceBase,
            "cls, ctx, _input, weight, target, bias=None, chunk_size=1, ignore_index=-100, "
            "alpha=1.0, beta=0.1, compute_nll_loss=True, nll_target=None, compiled=True, "
            f"use_ref_model=False, {reference}, average_log_prob=True, **loss_kwargs",
        ),
        (
            LigerFusedLinearUnpairedPreferenceBase,
            "cls, ctx, _input, weight, target, preference_labels, bias=None, chunk_size=1, "
            f"ignore_index=-100, compiled=True, use_ref_model=False, {reference}, "
            "average_log_prob=False, **loss_kwargs",
        ),
        (
            LigerFusedLinearPPOBase,
            "cls, ctx, _input, weight, selected_token_ids, attention_mask, advantages, bias=None, "
            f"ref_per_token_logps=None, old_per_token_logps=None, {reference}, epsilon_low=0.2, "
            "epsilon_high=0.2, beta=0.04, loss_type='dapo', max_completion_length=None, "
            "importance_sampling_level='token', temperature=1.0, compiled=True, "
            "use_ref_model=False, chunk_size=1, sapo_temperature_pos=1.0, "
            "sapo_temperature_neg=1.05, vllm_is_ratio=None, delta=None, "
            "use_bias_correction_kl=False, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, "
            "vespo_lambda_neg=2.0, num_items_in_batch=None",
        ),
    ]:
        assert str(inspect.signature(base.forward)) == f"({wanted})"
