"""What holds for every loss behind a linear layer: one that is declared is tested here."""

import itertools

import pytest
import torch
from linear_losses import LAYER, LOSSES, arguments_with_bias
from samples import OPS, arguments, differentiable_inputs, operator, results, tensors_of

every_loss = pytest.mark.parametrize("op", LOSSES)


IGNORED = -100


def case(op, device, dtype="f32", **sizes):
    """(arguments, with a bias; which of them have a gradient; which one has the labels)."""
    values, labels = arguments_with_bias(op, device, dtype, **sizes)
    return values, differentiable_inputs(op, values), labels


def ignore(values, tokens):
    """By every id that a token has."""
    for name in {"ids", "nll_ids", "target"} & set(values):
        values[name] = values[name].masked_fill(tokens, IGNORED)


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
    ignore(values, torch.ones_like(values[labels], dtype=torch.bool))
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


def mostly_ignored(op, device, rows=200):
    """(the same with four fifths of the labels ignored; how many are not): enough tokens that it
    pays to leave them out."""
    values, names, labels = case(op, device, rows=rows)
    places = torch.arange(values[labels].numel(), device=device).view(values[labels].shape)
    ignore(values, places % 5 != 1)
    return values, names, labels, int((values[labels] != IGNORED).sum())


def public_results(op, values, names):
    """Without what is kept for a backward."""
    kept = [i for i, name in enumerate(OPS[op]["outputs"]) if name in ("statistics", "logits")]
    found = results(operator(op), values, names)
    return {name: found[name] for name in found if name not in [f"output {i}" for i in kept]}


@every_loss
def test_ignored_tokens_are_left_out_and_change_nothing(device, op):
    values, names, labels, counted = mostly_ignored(op, device)
    ignored = values[labels] == IGNORED
    whole = public_results(op, values | {"counted_tokens": ignored.numel()}, names)
    # The exact number, and one that the caller rounded up.
    for known in (counted, counted + 20):
        some = public_results(op, values | {"counted_tokens": known}, names)
        for name, value in whole.items():
            torch.testing.assert_close(some[name], value, msg=lambda m, name=name: f"{name}: {m}")
        assert not some["gradient of input"][ignored].any()
    # Were an ignored token in a product, its NaN would be in the sum over tokens.
    spoilt = values | {"input": values["input"].masked_fill(ignored.unsqueeze(-1), float("nan"))}
    again, some = (public_results(op, v | {"counted_tokens": counted}, names)
                   for v in (spoilt, values))  # fmt: skip
    for name in ("output 0", *(f"gradient of {name}" for name in names)):
        assert torch.equal(again[name], some[name]), name


def flops(op, values, names):
    with torch.profiler.profile(with_flops=True) as profile:
        results(operator(op), values, names)
    return sum(e.flops for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))


@every_loss
def test_ignored_tokens_cost_no_product(op):
    values, names, labels, counted = mostly_ignored(op, "cpu")
    tokens = values[labels].numel()
    whole = flops(op, values | {"counted_tokens": tokens}, names)
    some = flops(op, values, names)
    kept = (counted + 127) // 128 * 128
    assert 0 < some <= whole * kept / tokens * 4 / 3  # a loss of whole units makes one product more


@every_loss
def test_a_count_that_leaves_labels_out_gives_nan_on_a_gpu(cuda, op):
    values, _, _, counted = mostly_ignored(op, cuda, rows=1000)
    if "token_mask" in values:
        values["token_mask"] = torch.ones_like(values["token_mask"])
    loss = tensors_of(operator(op)(**values, counted_tokens=counted))[0]
    assert loss.isfinite().all()
    assert tensors_of(operator(op)(**values, counted_tokens=counted - 128))[0].isnan().all()


@every_loss
@pytest.mark.parametrize("chunk_tokens", [0, 16, -1])
def test_a_label_that_is_no_class_is_reported_by_its_place_among_all(op, chunk_tokens):
    values, _, labels, _ = mostly_ignored(op, "cpu")
    if "token_mask" in values:
        values["token_mask"] = torch.ones_like(values["token_mask"])
    classes, place = values["weight"].shape[0], values[labels].numel() - 4
    values[labels].view(-1)[place] = classes
    with pytest.raises(
        ValueError, match=f"{op}: element {place} of argument '{labels}' is {classes};"
    ):
        operator(op)(**values, chunk_tokens=chunk_tokens)


@every_loss
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_token_and_odd_vocabularies(device, op, dtype):
    for size in (1, 7, 33):
        values = arguments(op, device, dtype, rows=1, size=size, inner=3)
        names = differentiable_inputs(op, values)
        whole = results(operator(op), values, names)
        assert all(value.isfinite().all() for value in whole.values())
