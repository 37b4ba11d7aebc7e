"""Cross entropy of rows of every length: held by a block or a cluster, kept in part, or read twice;
wherever they start, in place or not, the bits are the same."""

import pytest
import torch
from accuracy import run
from cross_entropy_test import case, check
from liger_jit.functional import cross_entropy
from loss_reference import OPTIONS
from samples import operator

# On an H100: 32000 is held by a block, 50257 by one that aligns its loads down; 128256 by a cluster
# with some of the row in registers, 70001 by one without; 1000 is too short and 600000 too long.
VOCABULARIES = [1000, 32000, 50257, 70001, 128256, 600000]
every_length = pytest.mark.parametrize("vocabulary", VOCABULARIES)


def in_place(logits, target):
    """{name: tensor} of what fused linear losses launch on their logits, which it overwrites."""
    totals = torch.full((3,), 1 / 4, device=logits.device)
    loss, z_loss = torch.zeros(2, logits.shape[0], device=logits.device)
    operator("cross_entropy_chunk_")(
        logits=logits,
        target=target,
        weight=None,
        totals=totals,
        grad_output=None,
        loss=loss,
        z_loss=z_loss,
        predicted=None,
        with_gradient=True,
    )
    return {"loss": loss, "gradient": logits}


def starting_at(tensor, shift):
    """The same values, the first of them `shift` elements past alignment."""
    wide = tensor.new_zeros(tensor.numel() + shift)
    wide[shift:] = tensor.reshape(-1)
    return wide[shift:].view(tensor.shape)


@every_length
def test_every_length_is_as_exact_as_eager(device, vocabulary):
    check(case(4, vocabulary, torch.bfloat16, device))


@pytest.mark.parametrize("vocabulary", [70001, 128256])
@pytest.mark.parametrize("name", ["smoothing", "all at once"])
def test_options_of_rows_held_by_a_cluster_are_as_exact_as_eager(device, vocabulary, name):
    for dtype in [torch.float32, torch.bfloat16]:
        inputs = case(3, vocabulary, dtype, device)
        check({**inputs, "weight": torch.rand(vocabulary, device=device) + 0.5}, **OPTIONS[name])


@every_length
def test_where_a_row_starts_changes_no_bit(device, vocabulary):
    inputs = case(4, vocabulary, torch.bfloat16, device)
    logits, target = inputs["logits"], inputs["target"]
    plain = run(cross_entropy, inputs, ("logits",))
    overwritten = in_place(logits.clone(), target)
    for shift in range(1, 8):
        view = starting_at(logits, shift)
        moved = run(cross_entropy, {**inputs, "logits": view}, ("logits",))
        assert all(torch.equal(moved[name], value) for name, value in plain.items()), shift
        moved = in_place(starting_at(logits, shift), target)
        assert all(torch.equal(moved[name], value) for name, value in overwritten.items()), shift


@every_length
def test_in_place_and_out_of_place_give_the_same_bits(device, vocabulary):
    inputs = case(4, vocabulary, torch.bfloat16, device)
    overwritten = in_place(inputs["logits"].clone(), inputs["target"])
    rows = cross_entropy(**inputs, reduction="none")
    assert torch.equal(rows, overwritten["loss"])
    result = run(lambda **all_: cross_entropy(**all_, num_items=4), inputs, ("logits",))
    assert torch.equal(result["gradient of logits"], overwritten["gradient"])


@every_length
def test_asking_for_predictions_changes_no_bit(device, vocabulary):
    inputs = case(4, vocabulary, torch.bfloat16, device)
    plain = cross_entropy(**inputs, reduction="none")
    more = cross_entropy(**inputs, reduction="none", return_predicted_tokens=True)
    assert torch.equal(more.loss, plain)
    predicted = inputs["logits"].float().argmax(-1).where(inputs["target"] != -100, -1)
    assert torch.equal(more.predicted_tokens, predicted)


@every_length
def test_rows_of_nothing_but_minus_infinity_or_nan_spoil_no_other(device, vocabulary):
    inputs = case(5, vocabulary, torch.bfloat16, device)
    logits, target = inputs["logits"], inputs["target"]
    target[1] = 0
    plain = run(cross_entropy, {"logits": logits[3:], "target": target[3:]}, ("logits",))
    logits[0], logits[1] = -float("inf"), float("nan")
    rows = cross_entropy(**inputs, reduction="none", return_predicted_tokens=True)
    assert not rows.loss[:2].isfinite().any()
    assert torch.equal(rows.predicted_tokens[:2], torch.zeros_like(target[:2]))
    rest = run(cross_entropy, {"logits": logits[3:], "target": target[3:]}, ("logits",))
    assert all(torch.equal(rest[name], value) for name, value in plain.items())


@every_length
def test_an_ignored_row_is_not_read_whatever_its_length(device, vocabulary):
    inputs = case(4, vocabulary, torch.bfloat16, device)
    inputs["target"][2] = -100
    inputs["logits"][2] = float("nan")
    result = run(cross_entropy, inputs, ("logits",))
    assert result["output 0"].isfinite()
    assert not result["gradient of logits"][2].any()


@every_length
def test_a_label_out_of_range_spoils_its_row_alone_whatever_its_length(cuda, vocabulary):
    import liger_jit

    inputs = case(4, vocabulary, torch.bfloat16, cuda)
    inputs["target"].copy_(torch.tensor([0, vocabulary, vocabulary - 1, 1]))
    result = in_place(inputs["logits"].clone(), inputs["target"])
    assert torch.equal(result["loss"].isnan(), inputs["target"] == vocabulary)
    assert not result["gradient"][1].any()
    assert result["gradient"].isfinite().all()
    with pytest.raises(ValueError, match=f"element 1 of argument 'target' is {vocabulary}"):
        liger_jit.check()
