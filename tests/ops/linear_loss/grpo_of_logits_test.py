"""Liger Kernel's GRPO loss of logits that exist, against plain torch in float64."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager
from grpo_reference import CLIPPED, LOSS_TYPES, policy_reference
from liger_jit.transformers.grpo_loss import fused_selective_log_softmax, triton_grpo_loss
from log_prob_reference import chosen_log_probs, exact

# A ratio has the rounding of its log-probability, of which the last bit is 2e-7 and more; vespo's
# of a sequence is the product of its tokens'.
SLACK, SLACK_OF_SEQUENCES = 2.5e-7, 5e-6


def case(device, dtype=torch.float32):
    """Logits [4, L + 1, V] of L = 6 tokens that were sampled by a policy a step away."""
    logits = torch.randn(4, 7, 33, device=device).to(dtype)
    ids = torch.randint(33, (4, 6), device=device)
    chosen = chosen_log_probs(logits[:, :-1].float(), ids)
    lengths = torch.tensor([[0], [6], [3], [5]], device=device)
    return {
        "logits": logits,
        "ids": ids,
        "mask": (torch.arange(6, device=device) < lengths).long(),
        "advantages": torch.tensor([1.0, -0.7, 1.3, -2.0], device=device),
        "ref": chosen + torch.randn_like(chosen) / 3,
        "old": chosen + torch.randn_like(chosen) / 3,
    }


def ours(logits, ids, mask, advantages, ref, old, **options):
    loss, metrics = triton_grpo_loss(
        logits, old, ref, ids, advantages, mask, reduce=True, eps_high=0.2, **options
    )
    return loss, *metrics


def reference(logits, ids, mask, advantages, ref, old, temperature=0.9, **options):
    log_probs = chosen_log_probs(exact(logits[:, :-1]) / temperature, ids)
    if options["loss_type"] != "luspo":
        return policy_reference(log_probs, mask, advantages, ref, old, None, **options)
    # A masked token counts nothing here, which for the mean over all positions is a zero.
    mean = policy_reference(
        log_probs, mask, advantages, ref, old, None, **options | {"loss_type": "grpo"}
    )
    weights = mask.sum(-1).to(log_probs.dtype).square() / mask.shape[1]
    each = [
        policy_reference(
            *(one[i : i + 1] for one in (log_probs, mask, advantages, ref, old)),
            None,
            **options | {"loss_type": "grpo"},
        )[0]
        for i in range(len(mask))
    ]
    return (torch.stack(each) * weights).mean(), *mean[1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_of_logits_is_as_exact_as_eager(device, loss_type, dtype):
    options = {"loss_type": loss_type}
    if loss_type == "dr_grpo":
        options["max_completion_length"] = 9
    inputs = case(device, dtype)
    slack = SLACK_OF_SEQUENCES if loss_type == "vespo" else SLACK

    def check():
        return assert_as_exact_as_eager(
            partial(ours, **options),
            partial(reference, **options),
            inputs,
            ["logits"],
            slack_of_products=slack,
        )

    result = check()
    assert not result["gradient of logits"][:, -1].any()
    if loss_type in CLIPPED:
        options["importance_sampling_level"] = "sequence"
        check()


def test_without_reduce_each_token_has_a_loss_of_its_own(device):
    inputs = case(device)
    arguments = [inputs[name] for name in ("logits", "old", "ref", "ids", "advantages", "mask")]
    loss, kl, clipped = triton_grpo_loss(*arguments, loss_type="bnpo")
    for one in (loss, kl, clipped):
        assert one.shape == (4, 6) and one.dtype == torch.float32
        assert not one[inputs["mask"] == 0].any()
    mean, (mean_kl, share) = triton_grpo_loss(*arguments, loss_type="bnpo", reduce=True)
    tokens = inputs["mask"].sum()
    torch.testing.assert_close(loss.sum() / tokens, mean)
    torch.testing.assert_close(kl.sum() / tokens, mean_kl)
    torch.testing.assert_close(clipped.sum() / tokens, share)
    assert triton_grpo_loss(*arguments, beta=0.0)[1] is None
    assert len(triton_grpo_loss(*arguments, beta=0.0, reduce=True)[1]) == 1


def test_no_mask_counts_every_token(device):
    inputs = case(device)
    arguments = [inputs[name] for name in ("logits", "old", "ref", "ids", "advantages")]
    wanted = triton_grpo_loss(*arguments, torch.ones_like(inputs["ids"]), reduce=True)
    assert triton_grpo_loss(*arguments, reduce=True) == wanted


def test_a_divergence_needs_a_reference(device):
    inputs = case(device)
    with pytest.raises(ValueError, match="ref_logp is None"):
        triton_grpo_loss(inputs["logits"], inputs["old"], None, inputs["ids"], inputs["advantages"])


def test_log_probabilities_of_the_last_ids(device):
    inputs = case(device)
    whole = torch.cat((torch.zeros_like(inputs["ids"]), inputs["ids"]), 1)  # a prompt before them
    mask = torch.cat((torch.ones_like(inputs["ids"]), inputs["mask"]), 1)
    logits = inputs["logits"].requires_grad_()
    found = fused_selective_log_softmax(logits, whole, 0.7)
    wanted = chosen_log_probs(logits.detach()[:, :-1] / 0.7, inputs["ids"])
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad
    masked = fused_selective_log_softmax(logits, whole, 0.7, mask)
    assert torch.equal(masked, found * inputs["mask"])
