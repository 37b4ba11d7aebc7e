"""A small loss takes one launch, and has the bits of the launches that a large one takes."""

import pytest
import torch
from accuracy import dtypes_of
from cross_entropy_test import case
from liger_jit.functional import cross_entropy
from liger_jit.stats import stats
from loss_reference import OPTIONS
from samples import operator

OPTIONS = {name: {"ignore_index": -100, **options} for name, options in OPTIONS.items()}
OPTIONS["scaled by the token"] = {"ignore_index": -100, "token_scaling": True}
REDUCTIONS = {"mean": 1, "sum": 2}


def launches(call):
    call()  # compiles and tunes
    before = stats()["counters"]["launches"]
    call()
    return stats()["counters"]["launches"] - before


def launches_of(inputs, **options):
    return launches(lambda: cross_entropy(**inputs, **options))


def most_rows(device, classes):
    """Of so many classes that take one launch, found by trying."""
    few, many = 1, 4096
    while few + 1 < many:
        rows = (few + many) // 2
        if launches_of(case(rows, classes, torch.bfloat16, device)) == 1:
            few = rows
        else:
            many = rows
    return few


def whole(inputs, options):
    """{name: tensor} of one call of the operator."""
    names = ("loss", "z_loss", "token_accuracy", "predicted", "gradient")
    return dict(zip(names, operator("cross_entropy")(**inputs, **options), strict=True))


def in_parts(inputs, options):
    """The same of the operators that a fused loss is made of, each a launch."""
    logits, target, weight = inputs["logits"].clone(), inputs["target"], inputs["weight"]
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    row_loss, row_z_loss = torch.empty(2, len(target), device=logits.device, dtype=wide)
    totals = torch.empty(3, device=logits.device, dtype=wide)
    loss, z_loss, accuracy = torch.empty(3, 1, device=logits.device, dtype=wide)
    predicted = torch.empty_like(target)
    operator("cross_entropy_totals_")(
        target,
        weight,
        inputs["num_items"],
        totals,
        logits.shape[1],
        options["ignore_index"],
        options["reduction"],
    )
    operator("cross_entropy_chunk_")(
        logits, target, weight, totals, None, row_loss, row_z_loss, predicted, **options
    )
    operator("cross_entropy_mean_")(
        row_loss,
        row_z_loss,
        predicted,
        target,
        totals,
        loss,
        z_loss,
        accuracy,
        options["ignore_index"],
        True,
    )
    return {
        "loss": loss[0],
        "z_loss": z_loss[0],
        "token_accuracy": accuracy[0],
        "predicted": predicted,
        "gradient": logits,
    }


def assert_same_bits(inputs, options):
    options = {**options, "reduction": REDUCTIONS[options.get("reduction", "mean")]}
    options |= {"want_accuracy": True, "with_gradient": True}
    assert launches(lambda: operator("cross_entropy")(**inputs, **options)) == 1
    found, wanted = whole(inputs, options), in_parts(inputs, options)
    for name, value in wanted.items():
        assert value.isfinite().all(), name
        assert torch.equal(found[name], value), name


def small(rows, classes, dtype, device, options, weighted=False, num_items=None):
    inputs = case(rows, classes, dtype, device, ignore_index=options["ignore_index"])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs["weight"] = torch.rand(classes, device=device, dtype=wide) + 0.5 if weighted else None
    inputs["num_items"] = num_items
    return inputs


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_the_bits_of_its_parts(device, name):
    inputs = small(60, 129, torch.float16, device, OPTIONS[name])
    assert_same_bits(inputs, OPTIONS[name])


def test_every_dtype_and_class_weights_have_the_bits_of_their_parts(device):
    for dtype in dtypes_of(device):
        inputs = small(60, 129, dtype, device, OPTIONS["all at once"], weighted=True)
        assert_same_bits(inputs, OPTIONS["all at once"])


def test_a_number_of_items_has_the_bits_of_its_parts(device):
    count = torch.tensor(40.0, device=device)
    options = OPTIONS["all at once"]
    inputs = small(60, 129, torch.bfloat16, device, options, weighted=True, num_items=count)
    assert_same_bits(inputs, options)


# Of all lengths that one launch takes: a class, a ragged pack, half a warp, and both numbers of
# threads that a block of a GPU has.
@pytest.mark.parametrize("classes", [1, 7, 128, 256, 257, 1000, 1024])
def test_every_number_of_rows_has_the_bits_of_its_parts(device, classes):
    most = most_rows(device, classes)
    assert most >= 8
    for rows in {1, 2, 5, most // 2 + 1, most}:
        inputs = small(rows, classes, torch.bfloat16, device, OPTIONS["plain"], weighted=True)
        assert_same_bits(inputs, OPTIONS["plain"])


def test_a_row_too_many_takes_other_launches_and_gives_the_same_loss(device):
    most = most_rows(device, 100)
    inputs = case(most + 1, 100, torch.bfloat16, device)
    inputs["target"][-1] = -100
    few = {name: value[:most] for name, value in inputs.items()}
    assert launches_of(few) == 1
    assert launches_of(inputs) == 3
    assert torch.equal(cross_entropy(**few), cross_entropy(**inputs))


def test_asking_for_more_takes_no_other_launch(device):
    inputs = case(8, 128, torch.bfloat16, device)
    assert launches_of(inputs, return_z_loss=True, return_token_accuracy=True) == 1
    assert launches_of(inputs, return_predicted_tokens=True) == 1
    inputs["logits"].requires_grad_()
    assert launches_of(inputs) == 1


def test_long_rows_take_launches_of_their_own(device):
    assert launches_of(case(2, 1025, torch.bfloat16, device)) == 3


def test_streams_do_not_disturb_each_other(cuda):
    cases = [case(1000, 250, torch.bfloat16, cuda) for _ in range(8)]
    wanted = [cross_entropy(**inputs) for inputs in cases]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in cases]
    for _ in range(50):
        found = []
        for stream, inputs in zip(streams, cases, strict=True):
            with torch.cuda.stream(stream):
                found.append(cross_entropy(**inputs))
        torch.cuda.synchronize()
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_a_graph_is_replayed_beside_other_calls(cuda):
    inputs, others = (case(1000, 250, torch.bfloat16, cuda) for _ in range(2))
    wanted, of_others = cross_entropy(**inputs), cross_entropy(**others)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cross_entropy(**inputs)
    side = torch.cuda.Stream()
    for _ in range(50):
        captured.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            graph.replay()
        found = [cross_entropy(**others) for _ in range(4)]
        torch.cuda.synchronize()
        assert torch.equal(captured, wanted)
        assert all(torch.equal(one, of_others) for one in found)
