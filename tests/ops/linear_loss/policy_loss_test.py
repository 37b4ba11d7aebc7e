"""Losses of a policy by its log-probabilities: every loss and option against the formulas."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused
from grpo_reference import CLIPPED, DEFAULTS, LOSS_TYPES, policy_reference, policy_terms
from liger_jit.functional import policy_loss

# Each option alone, then all that go together.
OPTIONS = {
    "plain": {"beta": 0.0},
    "reference": {"beta": 0.1},
    "corrected": {"beta": 0.1, "use_bias_correction_kl": True},
    "wide clip": {"beta": 0.0, "epsilon_low": 0.4, "epsilon_high": 0.6},
}
SHARP = {
    "sapo_temperature_pos": 0.7,
    "sapo_temperature_neg": 2.0,
    "vespo_k_pos": 1.5,
    "vespo_lambda_pos": 2.5,
    "vespo_k_neg": 0.8,
    "vespo_lambda_neg": 1.2,
}


def case(device, dtype=torch.float32, sequences=5, tokens=11):
    """Ratios on both sides of every bound, a sequence of no token, one of all, ragged ones."""
    shape = (sequences, tokens)
    log_probs = -torch.rand(shape, device=device, dtype=torch.float64) * 4
    mask = torch.arange(tokens, device=device) < torch.tensor(
        [[0], [tokens], [3], [7], [1]], device=device
    )
    return {
        "log_probs": log_probs.to(dtype),
        "mask": mask[:sequences],
        "advantages": torch.tensor([1.0, -0.7, 1.3, -2.0, 0.4], device=device)[:sequences],
        "ref_log_probs": (log_probs + torch.randn_like(log_probs) / 2).to(dtype),
        "old_log_probs": (log_probs + torch.randn_like(log_probs) / 2).to(dtype),
    }


def ours(mask, max_completion_length=None, use_bias_correction_kl=False, **arguments):
    made = policy_loss(
        token_mask=mask,
        max_completion_length=max_completion_length,
        bias_corrected_kl=use_bias_correction_kl,
        **arguments,
    )
    return made if arguments["beta"] != 0 else (made.loss, made.clip_ratio)


def check(inputs, **options):
    if options["loss_type"] == "dr_grpo":
        options.setdefault("max_completion_length", 20)
    return assert_as_exact_as_eager(
        lambda **tensors: ours(**tensors, **options),
        lambda **tensors: policy_reference(**tensors, **options),
        inputs,
        ["log_probs"],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_and_option_is_as_exact_as_eager(device, loss_type, name, dtype):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 is for the CPU")
    inputs = case(device, dtype)
    check(inputs, loss_type=loss_type, **OPTIONS[name])
    check(inputs, loss_type=loss_type, **OPTIONS[name], **SHARP)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss_type", CLIPPED)
def test_ratios_of_sequences_are_as_exact_as_eager(device, loss_type, name):
    inputs = case(device)
    inputs["old_log_probs"][1] = inputs["log_probs"][1] + 0.5  # beyond the lower bound
    inputs["old_log_probs"][2] = inputs["log_probs"][2] - 0.5  # beyond the upper one
    check(inputs, loss_type=loss_type, importance_sampling_level="sequence", **OPTIONS[name])


# Below, between and above the bounds of the ratio.
@pytest.mark.parametrize("delta", [0.7, 1.1, 1.6])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_two_sided_clip_is_as_exact_as_eager(device, level, delta):
    inputs = case(device)
    for beta in [0.0, 0.1]:
        check(
            inputs,
            loss_type="grpo",
            importance_sampling_level=level,
            delta=delta,
            beta=beta,
            use_bias_correction_kl=True,
        )


@pytest.mark.parametrize("of", ["tokens", "sequences", "sequences, 1-D"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_correction_for_the_sampling_engine_is_as_exact_as_eager(device, loss_type, of):
    inputs = case(device)
    ratio = torch.rand(inputs["mask"].shape, device=device) + 0.5
    inputs["importance_ratio"] = {"tokens": ratio, "sequences": ratio[:, :1]}.get(of, ratio[:, 0])
    check(inputs, loss_type=loss_type, beta=0.1)
    if loss_type in CLIPPED:
        check(inputs, loss_type=loss_type, beta=0.1, importance_sampling_level="sequence")


@pytest.mark.parametrize("given", [("old_log_probs",), ("ref_log_probs",), ()])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_what_is_not_given_is_the_policy_itself_held_constant(device, loss_type, given):
    inputs = case(device)
    kept = {n: v for n, v in inputs.items() if not n.endswith("_log_probs") or n in given}
    check(kept, loss_type=loss_type, beta=0.1, use_bias_correction_kl=True)


@pytest.mark.parametrize("loss_type", ["dapo", "cispo", "vespo"])
def test_num_items_replaces_the_number_of_tokens(device, loss_type):
    inputs = case(device)
    for num_items in [40, torch.tensor(40), torch.tensor([40.0], device=device), 0]:
        check(inputs, loss_type=loss_type, beta=0.1, num_items=num_items)


# "luspo" counts padding, and some losses know no ratios of sequences.
MASKED = [(kind, "token") for kind in LOSS_TYPES if kind != "luspo"] + [("grpo", "sequence")]


@pytest.mark.parametrize(("loss_type", "level"), MASKED)
def test_what_the_mask_leaves_out_may_hold_anything(device, loss_type, level):
    inputs = case(device)
    inputs["importance_ratio"] = torch.rand(inputs["mask"].shape, device=device) + 0.5
    wild = {name: value.clone() for name, value in inputs.items()}
    for name in ["log_probs", "ref_log_probs", "old_log_probs", "importance_ratio"]:
        wild[name][~inputs["mask"]] = float("nan")
    options = {"loss_type": loss_type, "beta": 0.1, "importance_sampling_level": level}
    results = []
    for each in [inputs, wild]:
        leaf = each["log_probs"].requires_grad_()
        made = ours(**each, **options)
        made[0].backward()
        assert (leaf.grad[~inputs["mask"]] == 0).all()
        results.append([*(one.detach() for one in made), leaf.grad])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("name", ["old_log_probs", "importance_ratio"])
def test_a_token_that_counts_and_is_no_number_makes_the_loss_none(device, name, loss_type):
    inputs = case(device)
    inputs["importance_ratio"] = torch.ones(inputs["mask"].shape, device=device)
    inputs[name][inputs["mask"]] = float("nan")
    assert ours(**inputs, loss_type=loss_type, beta=0.0)[0].isnan()


def test_a_batch_without_a_token_has_no_loss_and_no_gradient(device):
    inputs = case(device) | {"mask": torch.zeros(5, 11, device=device)}
    inputs["log_probs"].requires_grad_()
    for loss_type in LOSS_TYPES:
        made = policy_loss(
            inputs["log_probs"], inputs["mask"], inputs["advantages"], loss_type=loss_type
        )
        (gradient,) = torch.autograd.grad(made.loss, inputs["log_probs"])
        assert made == (0, 0, 0) and not gradient.any(), loss_type


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_each_tokens_own_loss_has_a_gradient_of_its_own(device, level):
    inputs = case(device)
    options = {"importance_sampling_level": level, "beta": 0.1, "use_bias_correction_kl": True}

    def each(**tensors):
        made = ours(**tensors, **options, loss_type="bnpo", reduce=False)
        return made.loss, made.kl, made.clip_ratio

    def reference(log_probs, mask, advantages, ref_log_probs, old_log_probs):
        made = policy_terms(
            log_probs,
            mask.to(log_probs.dtype),
            advantages.unsqueeze(1),
            ref_log_probs,
            old_log_probs,
            **DEFAULTS | options | {"loss_type": "bnpo"},
        )
        return made[0] * mask, (made[1] * mask).detach(), made[2] * mask.to(log_probs.dtype)

    assert_as_exact_as_eager(each, reference, inputs, ["log_probs"])


def test_a_ratio_that_overflows_is_clipped_and_has_no_gradient(device):
    inputs = case(device)
    inputs["old_log_probs"][2] = -1000.0  # an advantage above zero
    inputs["log_probs"].requires_grad_()
    made = ours(**inputs, loss_type="bnpo", beta=0.0)
    (gradient,) = torch.autograd.grad(made[0], inputs["log_probs"])
    assert made[0].isfinite() and gradient.isfinite().all() and not gradient[2].any()


def test_a_compiled_loss_has_the_same_numbers(device):
    inputs = case(device)
    options = {"loss_type": "grpo", "beta": 0.1, "importance_sampling_level": "sequence"}
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    leaf = inputs["log_probs"].requires_grad_()
    results = []
    for function in [ours, compiled]:
        made = function(**inputs, **options)
        results.append([*made, torch.autograd.grad(made[0], leaf)[0]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_errors_say_what_is_allowed(device):
    inputs = case(device)
    mask = inputs.pop("mask")
    zeros = partial(torch.zeros, device=device)

    def refused(*words, **changes):
        assert_refused(lambda: policy_loss(token_mask=mask, **inputs | changes), *words)

    refused("'loss_type' is 'ppo'; allowed: 'grpo', 'bnpo'", loss_type="ppo")
    refused("'importance_sampling_level' is 'batch'", importance_sampling_level="batch")
    sequences = {"importance_sampling_level": "sequence"}
    refused("'importance_sampling_level' is sequence", loss_type="cispo", **sequences)
    refused("'delta' is 2", loss_type="sapo", delta=2.0)
    refused("'delta' is -1.*positive", delta=-1.0)
    refused("'sapo_temperature_neg' is 0", loss_type="sapo", sapo_temperature_neg=0.0)
    refused("'num_items' is given.*dapo", loss_type="bnpo", num_items=3)
    refused("'max_completion_length' is -1", loss_type="dr_grpo", max_completion_length=-1)
    refused("'advantages' has shape .*11.*allowed: \\[5\\]", advantages=zeros(11))
    refused("'old_log_probs' has shape", old_log_probs=zeros(5, 10))
    refused("'importance_ratio' has shape", importance_ratio=zeros(5, 2))
    short = {"token_mask": mask[:, :3]}
    assert_refused(lambda: policy_loss(**inputs | short), "'token_mask' has shape")
