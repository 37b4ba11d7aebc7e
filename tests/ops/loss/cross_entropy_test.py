"""Cross entropy against float64: its options one by one and together, its layouts, its limits."""

from functools import partial

import pytest
import torch
from accuracy import (
    DTYPES,
    HALVES,
    assert_as_exact_as_eager,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit.functional import cross_entropy
from loss_reference import OPTIONS, cross_entropy_reference, labels


def case(rows, vocabulary, dtype, device, scale=3.0, ignore_index=-100):
    logits = (scale * torch.randn(rows, vocabulary, device=device)).to(dtype)
    return {"logits": logits, "target": labels(rows, vocabulary, device, ignore_index)}


def check(inputs, grad_output="ones", **options):
    """The loss, the part of it that is z-loss, and the gradient."""
    result = assert_as_exact_as_eager(
        lambda **tensors: cross_entropy(**tensors, **options),
        lambda **tensors: cross_entropy_reference(**tensors, **options)[0],
        inputs,
        ("logits",),
        grad_output,
    )
    output = cross_entropy(**inputs, **options, return_z_loss=True)
    assert torch.equal(output.loss, result["output 0"])
    wide = {**inputs, "logits": inputs["logits"].double()}
    if inputs.get("weight") is not None:
        wide["weight"] = inputs["weight"].double()
    z_loss = cross_entropy_reference(**wide, **options)[1]
    torch.testing.assert_close(output.z_loss.double(), z_loss, rtol=1e-5, atol=1e-7)
    assert not output.z_loss.requires_grad
    return result


# 1: a loss of zero; 7, 129: no vector load fits; 1000: a ragged block; 4096: whole vectors;
# 20000: longer than a block holds at once; 50257: GPT-2's, odd, so most rows are misaligned.
@pytest.mark.parametrize("vocabulary", [1, 7, 64, 129, 1000, 4096, 20000, 50257])
def test_every_vocabulary_is_as_exact_as_eager_in_bfloat16(device, vocabulary):
    check(case(6, vocabulary, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        result = check(case(33, 129, dtype, device))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert result["output 0"].dtype == wide


def test_half_precision_is_as_exact_as_eager_in_float32_rounded_once(device):
    for dtype in HALVES:
        assert_as_exact_as_eager(
            cross_entropy,
            lambda **tensors: cross_entropy_reference(**tensors)[0],
            case(33, 129, dtype, device),
            ("logits",),
            "ones",
            eager=lambda logits, target: cross_entropy_reference(
                logits.to(torch.promote_types(logits.dtype, torch.float32)), target
            )[0],
        )


@pytest.mark.parametrize("weighted", [False, True], ids=["", "class weights"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_exact_as_eager(device, name, weighted):
    options = OPTIONS[name]
    inputs = case(17, 129, torch.float32, device, ignore_index=options.get("ignore_index", -100))
    if weighted:
        inputs["weight"] = torch.rand(129, device=device) + 0.5
    check(inputs, **options)


@pytest.mark.parametrize("name", ["plain", "all at once"])
def test_rows_with_gradients_of_their_own_are_as_exact_as_eager(device, name):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = case(17, 129, dtype, device)
        result = check(inputs, "random", **{**OPTIONS[name], "reduction": "none"})
        assert result["output 0"].shape == (17,)
        assert result["output 0"][1] == 0  # an ignored row


def test_half_precision_with_every_option_is_as_exact_as_eager(device):
    for dtype in HALVES:
        inputs = case(17, 129, dtype, device)
        check({**inputs, "weight": torch.rand(129, device=device) + 0.5}, **OPTIONS["all at once"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_grad_output_gradient_scales_the_gradient(device, reduction):
    # As loss scaling and gradient accumulation do.
    check(case(17, 129, torch.float32, device), "random", reduction=reduction)


def test_num_items_replaces_the_denominator_of_every_term(device):
    inputs = case(17, 129, torch.float32, device)
    inputs["weight"] = torch.rand(129, device=device) + 0.5
    forms = [40, 40.0, torch.tensor(40), torch.tensor([40.0], device=device)]
    results = [check(inputs, num_items=40, **OPTIONS["all at once"])]
    for form in forms:
        loss = partial(cross_entropy, **OPTIONS["all at once"], num_items=form)
        results.append(run(loss, inputs, ("logits",)))
    for result in results[1:]:
        assert all(torch.equal(result[key], value) for key, value in results[0].items())


def test_class_weights_may_be_of_another_dtype(device):
    inputs = case(17, 129, torch.bfloat16, device)
    for dtype in DTYPES:
        check({**inputs, "weight": (torch.rand(129, device=device) + 0.5).to(dtype)})


def test_predictions_and_accuracy_are_those_of_argmax(device):
    inputs = case(33, 129, torch.bfloat16, device)
    logits, target = inputs.values()
    logits[3, 100] = logits[3, 40] = 50.0  # a tie: the lowest index wins
    logits[4, target[4]] = 60.0
    result = cross_entropy(
        **inputs, return_token_accuracy=True, return_predicted_tokens=True, softcap=30.0
    )
    counted = target != -100
    predicted = logits.float().argmax(-1)
    predicted[3] = 40
    assert torch.equal(result.predicted_tokens[counted], predicted[counted])
    assert (result.predicted_tokens[~counted] == -1).all()
    wanted = (predicted == target)[counted].float().mean()
    torch.testing.assert_close(result.token_accuracy, wanted)
    assert result.z_loss is None
    assert not result.token_accuracy.requires_grad


def test_asking_for_more_changes_neither_loss_nor_gradient(device):
    inputs = case(17, 129, torch.float32, device)
    every = {"return_z_loss": True, "return_token_accuracy": True, "return_predicted_tokens": True}
    plain = run(cross_entropy, inputs, ("logits",))
    more = run(lambda **all_: cross_entropy(**all_, **every).loss, inputs, ("logits",))
    assert all(torch.equal(more[key], value) for key, value in plain.items())


def test_views_and_more_dimensions_give_the_result_of_the_plain_case(device):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = case(16, 64, dtype, device)
        wanted = run(cross_entropy, inputs, ("logits",))
        for name, view in strided_forms(inputs["logits"]):
            result = run(cross_entropy, {**inputs, "logits": view}, ("logits",))
            for key, value in wanted.items():
                assert torch.equal(result[key], value), f"{key} of {name}"
    folded = {"logits": inputs["logits"].view(2, 8, 64), "target": inputs["target"].view(2, 8)}
    result = run(cross_entropy, folded, ("logits",))
    assert torch.equal(result["gradient of logits"].view(16, 64), wanted["gradient of logits"])
    rows = cross_entropy(**folded, reduction="none", return_predicted_tokens=True)
    assert rows.loss.shape == rows.predicted_tokens.shape == (2, 8)


def test_the_shifted_logits_of_a_language_model_are_read_in_place(device):
    logits = torch.randn(2, 9, 129, device=device).bfloat16().requires_grad_()
    target = torch.randint(129, (2, 9), device=device)
    loss = cross_entropy(logits[:, :-1], target[:, 1:])
    copied = logits.detach()[:, :-1].contiguous().requires_grad_()
    wanted = cross_entropy(copied, target[:, 1:].contiguous())
    assert torch.equal(loss, wanted)
    loss.backward()
    wanted.backward()
    assert torch.equal(logits.grad[:, :-1], copied.grad)
    assert not logits.grad[:, -1].any()


def test_logits_are_left_as_they_were(device):
    inputs = case(9, 129, torch.bfloat16, device)
    before = inputs["logits"].clone()
    run(cross_entropy, inputs, ("logits",))
    assert torch.equal(inputs["logits"], before)


def test_without_a_gradient_the_loss_is_the_same(device):
    inputs = case(9, 129, torch.bfloat16, device)
    with_gradient = run(cross_entropy, inputs, ("logits",))["output 0"]
    loss = cross_entropy(**inputs)
    assert not loss.requires_grad
    assert torch.equal(loss, with_gradient)


def test_the_mean_of_no_labels_is_nan_as_in_torch_and_its_gradient_zero(device):
    inputs = case(5, 129, torch.float32, device)
    inputs["target"].fill_(-100)
    result = run(cross_entropy, inputs, ("logits",))
    assert result["output 0"].isnan()
    assert not result["gradient of logits"].any()
    for options in ({"reduction": "sum"}, {"reduction": "none"}, {"num_items": 3}):
        result = run(partial(cross_entropy, **options), inputs, ("logits",))
        assert not result["output 0"].any()
        assert not result["gradient of logits"].any()


def test_no_rows_are_a_loss_of_nothing(device):
    inputs = {
        "logits": torch.randn(0, 129, device=device),
        "target": torch.zeros(0, dtype=torch.long, device=device),
    }
    result = run(cross_entropy, inputs, ("logits",))
    assert result["output 0"].isnan()
    assert result["gradient of logits"].shape == (0, 129)
    assert cross_entropy(**inputs, reduction="sum") == 0
    assert cross_entropy(**inputs, reduction="none").shape == (0,)
