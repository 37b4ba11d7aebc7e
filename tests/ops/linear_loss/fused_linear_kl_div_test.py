"""The Kullback-Leibler divergence of a linear layer from given probabilities against torch's, in
float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from accuracy import (
    assert_as_exact_as_eager,
    assert_refused,
    cast,
    dtypes_of,
    relative_error,
    run,
    strided_forms,
)
from distillation_reference import IGNORED, WRT, layer_logits, layers
from liger_jit.functional import fused_linear_kl_div
from liger_jit.transformers import LigerFusedLinearKLDivLoss
from liger_jit.transformers.functional import liger_fused_linear_kl_div

SLACK_OF_PRODUCTS = 5e-7
REDUCTIONS = ["batchmean", "mean", "sum"]


def case(dtype, device, tokens=37, **sizes):
    """A layer, a third of whose labels are ignored, and probabilities of which many are zero."""
    inputs = layers(dtype, device, tokens, **sizes)
    teacher = inputs.pop("teacher_input") @ inputs.pop("teacher_weight").t()
    inputs.pop("teacher_bias", None)
    given = teacher.float().softmax(-1)
    given[:, 5::3] = 0
    return {**inputs, "probabilities": given.to(dtype)}


def reference(
    input, weight, probabilities, target=None, bias=None, reduction="batchmean", temperature=1.0
):
    logits = layer_logits(input, weight, bias)
    given = probabilities.flatten(0, -2).to(logits.dtype)
    kept = slice(None) if target is None else target.flatten() != IGNORED
    log_q = (logits[kept] / temperature).log_softmax(-1)
    if not len(log_q):
        return log_q.sum()
    each = F.kl_div(log_q, given[kept], reduction="none")
    return (
        each.mean()
        if reduction == "mean"
        else each.sum() / (len(log_q) if reduction == "batchmean" else 1)
    )


def check(inputs, **options):
    wrt = [name for name in WRT if name in inputs]
    return assert_as_exact_as_eager(
        lambda **tensors: fused_linear_kl_div(**tensors, **options),
        lambda **tensors: reference(**tensors, **options),
        inputs,
        wrt,
        grad_output="ones",
        slack_of_products=SLACK_OF_PRODUCTS,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_is_as_exact_as_eager(device, reduction, temperature):
    for dtype in dtypes_of(device):
        # 16 bits of so many tokens that no luck of rounding is left.
        inputs = case(dtype, device, tokens=500)
        if dtype == torch.float16 and reduction == "mean":
            inputs = {**inputs, "probabilities": inputs["probabilities"] * 64}
        check(inputs, reduction=reduction, temperature=temperature)


def test_without_labels_and_a_bias_every_token_counts(device):
    inputs = case(torch.float32, device, bias=False)
    del inputs["target"]
    check(inputs)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(9, 7), (1, 1003), (5, 50257), (3, 1)])
def test_any_sizes(device, tokens, vocabulary):
    inputs = case(torch.float32, device, tokens, vocabulary=vocabulary)
    inputs["target"][0] = vocabulary - 1
    if vocabulary > 1:  # of one class all gradients are zero, whatever eager rounds them to
        check(inputs, temperature=1.5)
    assert fused_linear_kl_div(**inputs).isfinite()


def test_probabilities_may_sum_to_anything(device):
    inputs = case(torch.float64 if device == "cpu" else torch.float32, device)
    inputs["probabilities"] = torch.rand_like(inputs["probabilities"]) * 3
    check(inputs)


def test_large_logits_overflow_nowhere(device):
    made = check(case(torch.float32, device, scale=3e3))
    assert all(value.isfinite().all() for value in made.values())


def test_what_has_no_probability_adds_nothing_where_the_layer_rules_it_out(device):
    for dtype in dtypes_of(device):
        inputs = case(dtype, device)
        inputs["bias"][5::3] = float("-inf")
        given = cast(inputs, torch.float64)
        columns = given["bias"].isfinite()
        fewer = {**given, **{n: given[n][columns] for n in ("weight", "bias")}}
        fewer["probabilities"] = given["probabilities"][:, columns]
        found = run(fused_linear_kl_div, inputs, ["input"])
        wanted = run(reference, {**fewer, "target": inputs["target"]}, ["input"])
        for name, value in found.items():
            assert value.isfinite().all()
            assert relative_error(value, wanted[name]) < 2e-2, name


def test_the_least_probability_whose_logarithm_is_taken(device):
    inputs = case(torch.float32, device, bias=False)
    inputs["probabilities"][:] = 1e-6
    far = fused_linear_kl_div(**inputs, eps=1e-2)
    near = fused_linear_kl_div(**inputs)
    classes = inputs["probabilities"].shape[1]
    assert (far - near).item() == pytest.approx(math.log(1e4) * 1e-6 * classes, rel=1e-4)


def test_alike_distributions_are_no_distance_apart(device):
    inputs = case(torch.float32, device)
    inputs["probabilities"] = layer_logits(*(inputs[name] for name in WRT)).softmax(-1)
    found = run(fused_linear_kl_div, inputs, ["input"])
    assert found["output 0"].abs() < 1e-6
    assert found["gradient of input"].abs().max() < 1e-7


def test_ignored_tokens_may_hold_anything(device):
    inputs = case(torch.float32, device)
    ignored = inputs["target"] == IGNORED
    clean = run(fused_linear_kl_div, inputs, WRT[:1])
    for name in ("input", "probabilities"):
        inputs[name][ignored] = float("nan")
    found = run(fused_linear_kl_div, inputs, WRT[:1])
    for name, value in clean.items():
        assert torch.equal(found[name], value), name
    assert not found["gradient of input"][ignored].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_where_no_token_counts_all_is_zero(device, reduction):
    inputs = case(torch.float32, device)
    none = {**inputs, "target": torch.full_like(inputs["target"], IGNORED)}
    empty = {k: v if k in ("weight", "bias") else v[:0] for k, v in inputs.items()}
    for given in (none, empty):
        found = run(lambda **t: fused_linear_kl_div(**t, reduction=reduction), given, WRT)
        assert not any(value.any() for value in found.values())


def test_a_nan_of_what_is_given_is_seen(device):
    inputs = case(torch.float32, device)
    inputs["probabilities"][0, 3] = float("nan")
    assert fused_linear_kl_div(**inputs).isnan()


def test_leading_dimensions_are_flattened_and_strides_are_free(device):
    inputs = case(torch.float32, device, tokens=12)
    wanted = run(fused_linear_kl_div, inputs, WRT)
    shaped = {
        name: value if name in ("weight", "bias") else value.view(3, 4, *value.shape[1:])
        for name, value in inputs.items()
    }
    found = run(fused_linear_kl_div, shaped, WRT)
    for name, value in wanted.items():
        assert torch.equal(found[name].flatten(), value.flatten()), name
    for of in ("input", "weight", "probabilities"):
        for form, view in strided_forms(inputs[of]):
            found = run(fused_linear_kl_div, {**inputs, of: view}, WRT)
            for name, value in wanted.items():
                assert torch.equal(found[name], value), (of, form, name)
    expanded = {**inputs, "probabilities": inputs["probabilities"][:1].expand(12, -1)}
    copied = {**inputs, "probabilities": expanded["probabilities"].clone()}
    assert torch.equal(fused_linear_kl_div(**expanded), fused_linear_kl_div(**copied))


def test_probabilities_of_another_dtype_are_rounded_to_the_layers(device):
    inputs = case(torch.bfloat16, device)
    wide = {**inputs, "probabilities": torch.rand(inputs["probabilities"].shape, device=device)}
    rounded = {**wide, "probabilities": wide["probabilities"].bfloat16()}
    found, wanted = (run(fused_linear_kl_div, one, WRT) for one in (wide, rounded))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    with torch.autocast(device, torch.bfloat16):
        lowered = fused_linear_kl_div(**cast(wide, torch.float32))
    assert torch.equal(lowered, wanted["output 0"])


def test_probabilities_that_want_a_gradient_are_refused(device):
    inputs = case(torch.float32, device)
    inputs["probabilities"].requires_grad_()
    with pytest.raises(NotImplementedError, match="probabilities"):
        fused_linear_kl_div(**inputs)


def test_what_makes_no_sense_is_refused_by_name(device):
    inputs = case(torch.float32, device)
    for options, words in [
        ({"reduction": "none"}, ["'reduction' is 'none'", "'batchmean'"]),
        ({"accum_dtype": torch.int8}, ["'accum_dtype' is torch.int8"]),
        ({"temperature": 0.0}, ["'temperature' is 0"]),
        ({"eps": -1.0}, ["'eps' is -1", "0 or more"]),
        ({"target": inputs["target"][:3]}, [r"'target' has shape \[3\]", r"\[37\]"]),
        ({"probabilities": inputs["probabilities"][:, :9]}, ["'probabilities' has shape", "129"]),
    ]:
        assert_refused(lambda options=options: fused_linear_kl_div(**{**inputs, **options}), *words)


@pytest.mark.parametrize("labelled", [False, True])
def test_under_their_names_it_is_the_same(device, labelled):
    inputs = case(torch.float32, device, bias=False)
    labels = inputs.pop("target")
    labels = labels if labelled else None
    options = {"reduction": "sum", "temperature": 2.0, "eps": 1e-3}
    wanted = fused_linear_kl_div(**inputs, target=labels, **options)
    module = LigerFusedLinearKLDivLoss("sum", temperature=2.0, eps=1e-3)
    short = None if labels is None else labels.int()
    given = (inputs["input"], inputs["weight"], inputs["probabilities"], short)
    assert torch.equal(module(*given), wanted)
    module.temperature = 1.0  # read at each forward
    again = liger_fused_linear_kl_div(*given, "sum", -100, 1.0, 1e-3)
    assert torch.equal(module(*given), again) and not torch.equal(again, wanted)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), again)
    with pytest.raises(ValueError, match="temperature=0; allowed: a positive number"):
        LigerFusedLinearKLDivLoss(temperature=0)
