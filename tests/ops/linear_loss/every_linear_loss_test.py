"""What holds for every loss behind a linear layer: one that is declared is tested here."""

import itertools

import pytest
import torch
from linear_losses import LAYER, LOSSES, arguments_with_bias
from samples import arguments, differentiable_inputs, operator, results

every_loss = pytest.mark.parametrize("op", LOSSES)


def case(op, device, dtype="f32"):
    """(arguments, with a bias; which of them have a gradient; which one has the labels)."""
    values, labels = arguments_with_bias(op, device, dtype)
    return values, differentiable_inputs(op, values), labels


def test_the_losses_are_found():
    assert {"fused_linear_cross_entropy", "linear_log_probs", "fused_linear_grpo"} <= set(LOSSES)


@every_loss
def test_the_layer_is_what_has_a_gradient(device, op):
    assert set(case(op, device)[1]) == LAYER


@every_loss
@pytest.mark.parametrize("chunk_tokens", [1, 3, 8, 1000, -1])
def test_any_division_gives_the_same_within_rounding(device, op, chunk_tokens):
    values, names, _ = case(op, device)
    whole = results(operator(op), values, names)
    some = results(operator(op), values | {"chunk_tokens": chunk_tokens}, names)
    for name, value in whole.items():
        torch.testing.assert_close(some[name], value, msg=lambda m, name=name: f"{name}: {m}")


@every_loss
def test_what_is_frozen_changes_no_other_gradient(device, op):
    values, names, _ = case(op, device)
    of_all = results(operator(op), values, names)
    for count in (1, 2):
        for some in itertools.combinations(names, count):
            for name, value in results(operator(op), values, list(some)).items():
                if name.startswith("gradient"):
                    torch.testing.assert_close(value, of_all[name])


@every_loss
def test_without_a_label_there_is_no_gradient(device, op):
    values, names, labels = case(op, device)
    values[labels] = torch.full_like(values[labels], -100)
    found = results(operator(op), values, names)
    assert not any(value.any() for name, value in found.items() if name.startswith("gradient"))


@every_loss
def test_a_label_that_is_no_class_is_reported_by_op_argument_and_value(op):
    values, _, labels = case(op, "cpu")
    if "token_mask" in values:
        values["token_mask"] = torch.ones_like(values["token_mask"])
    classes = values["weight"].shape[0]
    values[labels].view(-1)[2] = classes
    with pytest.raises(ValueError, match=f"{op}.*2.*'{labels}' is {classes}; allowed: 0 to"):
        operator(op)(**values)


@every_loss
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_token_and_odd_vocabularies(device, op, dtype):
    for size in (1, 7, 33):
        values = arguments(op, device, dtype, rows=1, size=size, inner=3)
        names = differentiable_inputs(op, values)
        whole = results(operator(op), values, names)
        assert all(value.isfinite().all() for value in whole.values())
