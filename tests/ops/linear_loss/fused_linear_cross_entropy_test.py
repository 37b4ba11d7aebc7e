"""The projection and cross entropy in chunks: as exact as doing them whole, for every option."""

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
from liger_jit.bench.cpu_memory import peak_bytes
from liger_jit.functional import cross_entropy, fused_linear_cross_entropy
from loss_reference import OPTIONS, cross_entropy_reference, labels

WRT = ("input", "weight")


def reference(input, weight, target, bias=None, ce_weight=None, **options):
    logits = input @ weight.t()
    if bias is not None:
        logits = logits + bias
    return cross_entropy_reference(logits, target, ce_weight, **options)[0]


def case(rows, hidden, vocabulary, dtype, device, bias=False, ce_weight=False, ignore_index=-100):
    inputs = {
        "input": torch.randn(rows, hidden, device=device).to(dtype),
        "weight": (torch.randn(vocabulary, hidden, device=device) / hidden**0.5 * 3).to(dtype),
        "target": labels(rows, vocabulary, device, ignore_index),
    }
    if bias:
        inputs["bias"] = torch.randn(vocabulary, device=device).to(dtype)
    if ce_weight:
        inputs["ce_weight"] = torch.rand(vocabulary, device=device) + 0.5
    return inputs


def check(inputs, wrt=WRT, grad_output="ones", chunk_tokens=0, **options):
    return assert_as_exact_as_eager(
        partial(fused_linear_cross_entropy, chunk_tokens=chunk_tokens, **options),
        partial(reference, **options),
        inputs,
        wrt,
        grad_output,
        # A library sums a product of another height in another order, and exp() follows.
        slack_of_products=5e-7 if inputs["input"].is_cuda else 1e-7 if chunk_tokens else 0.0,
    )


# 7 and 129: rows of logits that no vector load fits; 1000: a ragged block; 4096: whole vectors;
# 50257: GPT-2's, whose rows the op pads in its own buffer.
@pytest.mark.parametrize("vocabulary", [7, 129, 1000, 4096, 50257])
def test_every_vocabulary_is_as_exact_as_eager_in_bfloat16(device, vocabulary):
    check(case(9, 32, vocabulary, torch.bfloat16, device))


# 1 and 33: products whose inner dimension fits no tile
@pytest.mark.parametrize("hidden", [1, 33])
def test_every_hidden_size_is_as_exact_as_eager(device, hidden):
    check(case(9, hidden, 129, torch.float32, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(case(33, 32, 129, dtype, device))


@pytest.mark.parametrize("weighted", [False, True], ids=["", "class weights"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_exact_as_eager(device, name, weighted):
    options = OPTIONS[name]
    ignored = options.get("ignore_index", -100)
    inputs = case(17, 32, 129, torch.float32, device, True, weighted, ignored)
    check(inputs, (*WRT, "bias"), chunk_tokens=8, **options)


def test_bfloat16_with_every_option_is_as_exact_as_eager(device):
    inputs = case(17, 32, 129, torch.bfloat16, device, bias=True, ce_weight=True)
    check(inputs, (*WRT, "bias"), **OPTIONS["all at once"])


@pytest.mark.parametrize("name", ["plain", "all at once"])
def test_rows_with_gradients_of_their_own_are_as_exact_as_eager(device, name):
    inputs = case(17, 32, 129, torch.float32, device, bias=True)
    options = {**OPTIONS[name], "reduction": "none"}
    result = check(inputs, (*WRT, "bias"), "random", chunk_tokens=8, **options)
    assert result["output 0"].shape == (17,)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_grad_output_gradient_scales_every_gradient(device, reduction):
    inputs = case(17, 32, 129, torch.float32, device, bias=True)
    check(inputs, (*WRT, "bias"), "random", reduction=reduction)


@pytest.mark.parametrize("name", ["plain", "all at once"])
def test_token_scaling_weighs_a_row_by_the_probability_of_its_label(device, name):
    for reduction in ["mean", "none"]:
        inputs = case(17, 32, 129, torch.float32, device, bias=True)
        options = {**OPTIONS[name], "reduction": reduction, "token_scaling": True}
        check(inputs, (*WRT, "bias"), chunk_tokens=8, **options)


def test_num_items_replaces_the_denominator(device):
    inputs = case(17, 32, 129, torch.float32, device, ce_weight=True)
    wanted = check(inputs, num_items=40, **OPTIONS["all at once"])
    for form in [torch.tensor(40), torch.tensor([40.0], device=device)]:
        options = {**OPTIONS["all at once"], "num_items": form}
        result = run(partial(fused_linear_cross_entropy, **options), inputs, WRT)
        assert all(torch.equal(result[key], value) for key, value in wanted.items())


# 33 rows: whole, in two, in five of which the last is ragged, and one by one
@pytest.mark.parametrize("chunk_tokens", [33, 17, 8, 1, 1000])
def test_any_number_of_chunks_gives_the_same_within_rounding(device, chunk_tokens):
    wrt = (*WRT, "bias")
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = case(33, 32, 129, dtype, device, bias=True)
        truth = run(reference, cast(inputs, torch.float64), wrt)
        whole = run(fused_linear_cross_entropy, inputs, wrt)
        options = {"chunk_tokens": chunk_tokens, "accum_dtype": torch.float32}
        chunked = run(partial(fused_linear_cross_entropy, **options), inputs, wrt)
        for key, exact in truth.items():
            limit = 1.05 * relative_error(whole[key], exact) + 2 * TOLERANCE[dtype].slack
            limit += 1e-6 if exact.dim() == 0 else 0.0
            assert relative_error(chunked[key], exact) <= limit, key


def test_summing_in_the_weights_dtype_loses_no_more_than_its_roundings(device):
    inputs = case(64, 32, 129, torch.bfloat16, device)
    truth = run(reference, cast(inputs, torch.float64), WRT)["gradient of weight"]
    errors = []
    for accum_dtype in [torch.float32, torch.bfloat16, None]:
        options = {"chunk_tokens": 8, "accum_dtype": accum_dtype}
        result = run(partial(fused_linear_cross_entropy, **options), inputs, WRT)
        errors.append(relative_error(result["gradient of weight"], truth))
    assert errors[0] <= 1.05 * errors[1]
    assert max(errors) < 8 * 2**-9  # eight chunks, a rounding each


def mostly_ignored(rows, device, dtype=torch.float32):
    inputs = case(rows, 32, 129, dtype, device, bias=True)
    inputs["target"][torch.arange(rows, device=device) % 5 != 1] = -100
    return inputs, int((inputs["target"] != -100).sum())


def test_a_chunk_of_logits_is_given_back_before_a_sum_in_float32_is_rounded():
    tokens, hidden, classes, chunk = 1152, 512, 2048, 128
    inputs = {
        "input": torch.randn(tokens, hidden, dtype=torch.bfloat16, requires_grad=True),
        "weight": torch.randn(classes, hidden, dtype=torch.bfloat16, requires_grad=True),
        "target": torch.randint(classes, (tokens,)),
    }
    loss = partial(fused_linear_cross_entropy, **inputs, chunk_tokens=chunk)
    loss()  # what is compiled and tuned is known from here on
    dinput, weights, logits = tokens * hidden * 2, classes * hidden, chunk * classes * 2
    assert peak_bytes(loss) < dinput + (4 + 2) * weights + logits / 2


# The exact number, and one that the caller rounded up; 700 rows are more than one step of sizes.
@pytest.mark.parametrize("too_many", [0, 40])
@pytest.mark.parametrize("name", ["plain", "all at once", "sum"])
def test_ignored_tokens_are_left_out_of_the_products(device, name, too_many):
    inputs, counted = mostly_ignored(700, device)
    options = {**OPTIONS[name], "counted_tokens": counted + too_many}
    whole = run(partial(reference, **OPTIONS[name]), cast(inputs, torch.float64), (*WRT, "bias"))
    result = run(partial(fused_linear_cross_entropy, **options), inputs, (*WRT, "bias"))
    for key, exact in whole.items():
        assert relative_error(result[key], exact) < 2e-6, key
    ignored = inputs["target"] == -100
    assert not result["gradient of input"][ignored].any()
    # Were an ignored token in a product, its NaN would be in the sum over tokens.
    inputs["input"][ignored] = float("nan")
    spoilt = run(partial(fused_linear_cross_entropy, **options), inputs, (*WRT, "bias"))
    assert all(torch.equal(spoilt[key], result[key]) for key in result)


def test_predictions_of_left_out_tokens_keep_their_places(device):
    inputs, counted = mostly_ignored(700, device)
    flags = {"return_predicted_tokens": True, "return_token_accuracy": True}
    result = fused_linear_cross_entropy(**inputs, **flags, counted_tokens=counted)
    logits = inputs["input"] @ inputs["weight"].t() + inputs["bias"]
    wanted = logits.argmax(-1).where(inputs["target"] != -100, -1)
    assert torch.equal(result.predicted_tokens, wanted)
    hits = (wanted == inputs["target"]).sum() / counted
    torch.testing.assert_close(result.token_accuracy, hits)


def test_a_count_that_leaves_labels_out_gives_nan_on_a_gpu(cuda):
    inputs, counted = mostly_ignored(1500, cuda)
    assert fused_linear_cross_entropy(**inputs, counted_tokens=counted).isfinite()
    assert fused_linear_cross_entropy(**inputs, counted_tokens=counted - 128).isnan()


def test_no_label_at_all_gives_the_mean_of_torch_and_no_gradient(device):
    inputs, _ = mostly_ignored(700, device)
    inputs["target"].fill_(-100)
    function = partial(fused_linear_cross_entropy, counted_tokens=0)
    result = run(function, inputs, (*WRT, "bias"))
    assert result["output 0"].isnan()
    assert not any(result[f"gradient of {name}"].any() for name in (*WRT, "bias"))


def test_least_memory_gives_the_same_within_rounding(device):
    inputs = case(600, 32, 129, torch.float32, device)
    whole = run(fused_linear_cross_entropy, inputs, WRT)
    least = run(partial(fused_linear_cross_entropy, memory="min"), inputs, WRT)
    for key in whole:
        torch.testing.assert_close(least[key], whole[key])
    assert_refused(
        lambda: fused_linear_cross_entropy(**inputs, memory="most"), "memory", "most", "min"
    )


@pytest.mark.parametrize("wrt", [("input",), ("weight",), ("bias",), ("input", "bias")])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_right_one(device, wrt):
    inputs = case(17, 32, 129, torch.float32, device, bias=True)
    every = run(fused_linear_cross_entropy, inputs, (*WRT, "bias"))
    leaves = {
        name: value.clone().requires_grad_(name in wrt) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    fused_linear_cross_entropy(**leaves).backward()
    for name in (*WRT, "bias"):
        if name in wrt:
            torch.testing.assert_close(leaves[name].grad, every[f"gradient of {name}"])
        else:
            assert leaves[name].grad is None


def test_predictions_accuracy_and_z_loss_are_those_of_the_whole_logits(device):
    inputs = case(33, 32, 129, torch.float32, device, bias=True)
    options = {
        "return_z_loss": True,
        "return_token_accuracy": True,
        "return_predicted_tokens": True,
        **OPTIONS["all at once"],
    }
    result = fused_linear_cross_entropy(**inputs, chunk_tokens=8, **options)
    logits = inputs["input"] @ inputs["weight"].t() + inputs["bias"]
    wanted = cross_entropy(logits, inputs["target"], **options)
    assert torch.equal(result.predicted_tokens, wanted.predicted_tokens)
    torch.testing.assert_close(result.token_accuracy, wanted.token_accuracy)
    torch.testing.assert_close(result.z_loss, wanted.z_loss)
    torch.testing.assert_close(result.loss, wanted.loss)
    one = fused_linear_cross_entropy(**inputs, return_token_accuracy=True)
    assert one.z_loss is None
    assert one.predicted_tokens is None


def test_without_a_gradient_the_loss_is_the_same(device):
    inputs = case(17, 32, 129, torch.bfloat16, device)
    with_gradient = run(fused_linear_cross_entropy, inputs, WRT)["output 0"]
    loss = fused_linear_cross_entropy(**inputs)
    assert not loss.requires_grad
    assert torch.equal(loss, with_gradient)


def test_views_and_more_dimensions_give_the_result_of_the_plain_case(device):
    inputs = case(16, 32, 129, torch.float32, device)
    wanted = run(fused_linear_cross_entropy, inputs, WRT)
    forms = zip(strided_forms(inputs["input"]), strided_forms(inputs["weight"]), strict=True)
    for (name, input), (_, weight) in forms:
        views = {**inputs, "input": input, "weight": weight}
        result = run(fused_linear_cross_entropy, views, WRT)
        for key, value in wanted.items():
            torch.testing.assert_close(result[key], value, msg=f"{key} of {name}")
    folded = {**inputs, "input": inputs["input"].view(2, 8, 32)}
    folded["target"] = inputs["target"].view(2, 8)
    result = run(fused_linear_cross_entropy, folded, WRT)
    assert result["gradient of input"].shape == (2, 8, 32)
    assert torch.equal(result["gradient of weight"], wanted["gradient of weight"])
    assert fused_linear_cross_entropy(**folded, reduction="none").shape == (2, 8)


def test_inputs_are_left_as_they_were(device):
    inputs = case(9, 32, 129, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(fused_linear_cross_entropy, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_no_labels_give_zero_gradients_and_the_loss_of_torch(device):
    inputs = case(9, 32, 129, torch.float32, device)
    inputs["target"].fill_(-100)
    result = run(fused_linear_cross_entropy, inputs, WRT)
    assert result["output 0"].isnan()
    assert not result["gradient of input"].any()
    assert not result["gradient of weight"].any()
    empty = {**inputs, "input": inputs["input"][:0], "target": inputs["target"][:0]}
    result = run(partial(fused_linear_cross_entropy, reduction="sum"), empty, WRT)
    assert result["output 0"] == 0
    assert not result["gradient of weight"].any()


def test_errors_name_the_argument_and_its_value(device):
    x, head, target = case(4, 32, 64, torch.float32, device).values()
    op = "fused_linear_cross_entropy"
    loss = fused_linear_cross_entropy
    assert_refused(lambda: loss(x, head[:, :31], target), op, "weight", "31", "32")
    assert_refused(lambda: loss(x, head.half(), target), op, "weight", "16", "32")
    assert_refused(lambda: loss(x, head, target, head[:, 0][:8]), op, "bias", "8", "64")
    assert_refused(lambda: loss(x, head, target, accum_dtype=torch.int8), op, "accum_dtype", "int8")
    assert_refused(lambda: loss(x, head, target, chunk_tokens=-3), op, "chunk_tokens", "-3")
