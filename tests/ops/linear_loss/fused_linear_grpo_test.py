"""GRPO and its kin behind a linear layer: every loss against plain torch in float64, in chunks."""

from functools import partial

import pytest
import torch
from accuracy import (
    TOLERANCE,
    assert_as_exact_as_eager,
    assert_refused,
    cast,
    dtypes_of,
    relative_error,
    run,
    strided_forms,
)
from grpo_reference import CLIPPED, LOSS_TYPES, grpo_reference
from liger_jit.functional import fused_linear_grpo

WRT = ("input", "weight", "bias")
# A product of another height is summed in another order, and differences of log-probabilities
# follow, of which the ratios are exponentials.
SLACK_OF_PRODUCTS = 1e-6
SLACK_OF_SEQUENCES = 1e-5  # of vespo, whose ratio of a sequence is the product of its tokens'


def case(device, dtype=torch.float32, sequences=5, tokens=7, hidden=16, vocabulary=67, bias=True):
    """A policy a step away from those that sampled and that it is compared with; ragged, with a
    sequence of no token and one of all."""
    lengths = torch.tensor([[0], [tokens], [3], [5], [1]], device=device)[:sequences]
    inputs = {
        "input": torch.randn(sequences, tokens, hidden, device=device).to(dtype),
        "weight": (torch.randn(vocabulary, hidden, device=device) / hidden**0.5).to(dtype),
        "ids": torch.randint(vocabulary, (sequences, tokens), device=device),
        "mask": torch.arange(tokens, device=device) < lengths,
        "advantages": torch.tensor([1.0, -0.7, 1.3, -2.0, 0.4], device=device)[:sequences],
    }
    if bias:
        inputs["bias"] = torch.randn(vocabulary, device=device).to(dtype)
    logits = inputs["input"] @ inputs["weight"].t() + inputs.get("bias", 0)
    chosen = logits.float().log_softmax(-1).gather(-1, inputs["ids"].unsqueeze(-1)).squeeze(-1)
    for name in ["ref_log_probs", "old_log_probs"]:
        inputs[name] = chosen + torch.randn_like(chosen) / 3
    return inputs


def ours(mask, use_bias_correction_kl=False, **arguments):
    made = fused_linear_grpo(token_mask=mask, bias_corrected_kl=use_bias_correction_kl, **arguments)
    return made if arguments.get("beta", 0.04) != 0 else (made.loss, made.clip_ratio)


def check(inputs, grad_output="ones", counted_tokens=None, **options):
    if options.get("loss_type") == "dr_grpo":
        options.setdefault("max_completion_length", 20)
    return assert_as_exact_as_eager(
        partial(ours, counted_tokens=counted_tokens, **options),
        partial(grpo_reference, **options),
        inputs,
        [name for name in WRT if name in inputs],
        grad_output,
        slack_of_products=(
            SLACK_OF_SEQUENCES if options.get("loss_type") == "vespo" else SLACK_OF_PRODUCTS
        ),
    )


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"beta": 0.1, "use_bias_correction_kl": True}])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_is_as_exact_as_eager(device, loss_type, options):
    check(case(device), loss_type=loss_type, **options)
    if loss_type in CLIPPED:
        check(case(device), loss_type=loss_type, importance_sampling_level="sequence", **options)


@pytest.mark.parametrize("loss_type", ["bnpo", "cispo", "sapo", "vespo"])
def test_every_dtype_is_as_exact_as_eager(device, loss_type):
    for dtype in dtypes_of(device):
        check(case(device, dtype, hidden=32, vocabulary=129), loss_type=loss_type)
        check(case(device, dtype, bias=False), loss_type=loss_type, beta=0.0)


def test_what_arrives_from_above_scales_every_gradient(device):
    for loss_type in ["bnpo", "vespo"]:
        check(case(device), "random", loss_type=loss_type)


# One token, some, a sequence, two, all; with ratios of sequences those that do not fit come twice.
@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 14, 1000])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_any_chunks_give_the_same_within_rounding(device, level, chunk_tokens):
    for loss_type in ["grpo", "vespo"] if level == "token" else ["grpo"]:
        options = {"loss_type": loss_type, "importance_sampling_level": level, "delta": None}
        for dtype in [torch.float32, torch.bfloat16]:
            inputs = case(device, dtype)
            truth = run(partial(grpo_reference, **options), cast(inputs, torch.float64), WRT)
            whole = run(partial(ours, **options), inputs, WRT)
            some = run(partial(ours, chunk_tokens=chunk_tokens, **options), inputs, WRT)
            for key, exact in truth.items():
                limit = 2 * relative_error(whole[key], exact) + 40 * TOLERANCE[dtype].slack
                assert relative_error(some[key], exact) <= limit, key


# 209 of 1000 tokens count; vespo and ratios of sequences want whole sequences.
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_masked_tokens_are_left_out_and_change_nothing(device, loss_type):
    inputs = case(device, tokens=200)
    levels = ["token", "sequence"] if loss_type in CLIPPED else ["token"]
    for level in levels:
        options = {"loss_type": loss_type, "importance_sampling_level": level}
        check(inputs, counted_tokens=int(inputs["mask"].sum()), **options)


def test_the_least_memory_gives_the_same_within_rounding(device):
    inputs = case(device)
    options = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    whole = run(partial(ours, **options), inputs, WRT)
    for key, value in run(partial(ours, memory="min", **options), inputs, WRT).items():
        torch.testing.assert_close(value, whole[key])


def test_temperature_and_softcap_change_the_log_probabilities(device):
    check(case(device), temperature=0.7)
    inputs = case(device, bias=False)
    capped = {"temperature": 0.7, "softcap": 2.0}

    def reference(input, weight, **others):
        logits = 2.0 * torch.tanh(input @ weight.t() / 2.0)
        unit = torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)
        return grpo_reference(logits, unit, temperature=0.7, **others)

    assert_as_exact_as_eager(
        partial(ours, **capped),
        reference,
        inputs,
        WRT[:2],
        "ones",
        slack_of_products=SLACK_OF_PRODUCTS,
    )


@pytest.mark.parametrize("of", ["tokens", "sequences"])
def test_a_correction_for_the_sampling_engine(device, of):
    inputs = case(device)
    ratio = torch.rand(inputs["ids"].shape, device=device) + 0.5
    inputs["importance_ratio"] = ratio if of == "tokens" else ratio[:, :1]
    for loss_type in ["dapo", "vespo"]:
        check(inputs, loss_type=loss_type)
    check(inputs, loss_type="grpo", importance_sampling_level="sequence", delta=1.1)


def test_a_reference_layer_stands_for_its_log_probabilities(device):
    inputs = case(device)
    del inputs["ref_log_probs"]
    inputs["ref_input"] = inputs["input"] + torch.randn_like(inputs["input"]) / 4
    inputs["ref_weight"] = inputs["weight"] + torch.randn_like(inputs["weight"]) / 4
    inputs["ref_bias"] = inputs["bias"] / 2
    check(inputs, loss_type="bnpo", beta=0.1, temperature=0.8)


@pytest.mark.parametrize("num_items", [40, torch.tensor(40)])
def test_num_items_replaces_the_number_of_tokens(device, num_items):
    check(case(device), num_items=num_items)


@pytest.mark.parametrize("wrt", [("input",), ("weight",), ("bias",), ("input", "bias")])
def test_what_is_frozen_changes_no_other_gradient(device, wrt):
    inputs = case(device)
    of_all = run(ours, inputs, WRT)
    for name, value in run(ours, inputs, wrt).items():
        torch.testing.assert_close(value, of_all[name])


@pytest.mark.parametrize(
    ("loss_type", "level"), [("grpo", "token"), ("grpo", "sequence"), ("vespo", "token")]
)
def test_what_the_mask_leaves_out_may_hold_anything(device, loss_type, level):
    inputs = case(device)
    inputs["importance_ratio"] = torch.rand(inputs["ids"].shape, device=device) + 0.5
    out = ~inputs["mask"]
    wild = {name: value.clone() for name, value in inputs.items()}
    wild["ids"][out] = 10**9
    for name in ["ref_log_probs", "old_log_probs", "importance_ratio"]:
        wild[name][out] = float("nan")
    options = {"loss_type": loss_type, "importance_sampling_level": level}
    wanted = run(partial(ours, **options), inputs, WRT)
    for name, value in run(partial(ours, **options), wild, WRT).items():
        assert torch.equal(value, wanted[name]), name
    assert not wanted["gradient of input"][out].any()


def test_a_batch_without_a_token_has_no_loss_and_no_gradient(device):
    inputs = case(device)
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    for loss_type in LOSS_TYPES:
        result = run(partial(ours, loss_type=loss_type), inputs, WRT)
        assert not any(value.any() for value in result.values()), loss_type


def test_one_token(device):
    check(case(device, sequences=2, tokens=1), loss_type="grpo", beta=0.0)


def test_tensors_may_lie_anywhere_in_memory(device):
    inputs = case(device)
    wanted = run(ours, inputs, WRT)
    for name in ["input", "weight", "ref_log_probs", "old_log_probs"]:
        for form, view in strided_forms(inputs[name]):
            result = run(ours, inputs | {name: view}, WRT)
            for key, value in result.items():
                torch.testing.assert_close(value, wanted[key], msg=f"{name}: {form}: {key}")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bool])
def test_a_mask_may_have_any_dtype(device, dtype):
    inputs = case(device)
    wanted = run(ours, inputs, WRT)
    result = run(partial(ours), inputs | {"mask": inputs["mask"].to(dtype)}, WRT)
    assert all(torch.equal(result[name], value) for name, value in wanted.items())


def test_a_compiled_step_gives_the_same_bits(device):
    inputs = case(device)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    options = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    wanted = run(partial(ours, **options), inputs, WRT)
    for name, value in run(partial(compiled, **options), inputs, WRT).items():
        assert torch.equal(value, wanted[name]), name


def test_errors_say_what_is_allowed(device):
    inputs = case(device)
    mask = inputs.pop("mask")

    def refused(*words, **changes):
        call = partial(fused_linear_grpo, token_mask=mask)
        assert_refused(lambda: call(**inputs | changes), *words)

    refused("'loss_type' is 'ppo'; allowed: 'grpo'", loss_type="ppo")
    refused("'memory' is 'most'", memory="most")
    refused("'ids' has shape.*allowed: \\[5, 7\\]", ids=inputs["ids"][:, :3])
    refused("'advantages' has shape", advantages=torch.zeros(4, device=device))
    refused("'temperature' is 0", temperature=0.0)
    refused("'input'", input=inputs["input"][0])
    if device == "cpu":
        wrong = inputs["ids"].clone()
        wrong[1, 2] = 67
        refused("'ids' is 67; allowed: 0 to 66", ids=wrong)
