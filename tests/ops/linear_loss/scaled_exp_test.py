"""The fused linear cross entropy whose product writes exponentials: its parts anywhere, the whole
where a GPU has what the product is made for."""

import math

import pytest
import torch
from accuracy import relative_error
from fused_linear_cross_entropy_test import case, reference
from liger_jit.functional import fused_linear_cross_entropy, fused_linear_dpo, fused_linear_grpo
from liger_jit.stats import stats
from liger_jit.warmup import prepare, wait
from samples import operator

IGNORED = -100
# An element of e, of the scaled input and of the result are rounded to bfloat16, each by 2^-9.
ROUNDING = 4e-3
served = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)


def padded(count):
    return (count + 7) // 8 * 8


def in_parts(input, weight, target, late=None):
    """Loss, gradients, and whether the product was made again. With `late`, a number a token that
    comes after the product: the sum of losses each times that."""
    tokens, classes = len(target), len(weight)
    floats = {"device": input.device, "dtype": torch.float32}
    score, reference, row_loss, row_z_loss, factor = torch.full((5, tokens), 7.0, **floats)
    sums, maxima = torch.full((2, tokens, padded(-(-classes // 256))), 7.0, **floats)
    e = torch.full((tokens, padded(classes)), 7.0, device=input.device).bfloat16()[:, :classes]
    scaled = torch.full_like(input, 7.0)
    wanted = torch.zeros(1, dtype=torch.long, device=input.device)
    totals = (1.0 / target.ne(IGNORED).sum()).float().repeat(3)
    if late is not None:
        totals.fill_(1.0)
    operator("linear_reference_")(input, weight, target, score, reference, ignore_index=IGNORED)
    for again in (False, True):
        operator("scaled_exp_")(
            input, weight, reference, e, sums, maxima, wanted if again else None
        )
        operator("scaled_exp_rows_")(
            input,
            target,
            score,
            sums,
            maxima,
            totals,
            reference,
            e,
            row_loss,
            row_z_loss,
            factor,
            scaled,
            wanted,
            classes,
            IGNORED,
            again,
        )
    assert not row_z_loss.any()
    loss = row_loss.sum() * totals[0]
    if late is not None:
        loss = (row_loss * late).sum()
        factor *= late
        torch.mul(input, factor[:, None], out=scaled)
        scaled.masked_fill_(factor.eq(0)[:, None], 0)
    dinput = factor[:, None] * (e.float() @ weight.float())
    return loss, dinput, e.float().t() @ scaled.float(), bool(wanted.item())


def exact(inputs):
    """Loss and gradients in float64; a token without a label has a gradient of zero."""
    counted = inputs["target"] != IGNORED
    input = inputs["input"][counted].double().requires_grad_()
    weight = inputs["weight"].double().requires_grad_()
    loss = reference(input, weight, inputs["target"][counted])
    loss.backward()
    dinput = torch.zeros_like(inputs["input"], dtype=torch.float64)
    dinput[counted] = input.grad
    return loss.detach(), dinput, weight.grad


def assert_close(found, wanted):
    assert relative_error(found[0], wanted[0]) < 1e-5
    assert relative_error(found[1], wanted[1]) < ROUNDING
    assert relative_error(found[2], wanted[2]) < ROUNDING


# 1 and 300 tokens: less than a tile, and a ragged one; 16, 333 and 1000 classes alike; a hidden
# size beside the depth of a stage
@pytest.mark.parametrize(
    "tokens,hidden,classes", [(1, 8, 16), (1, 64, 333), (300, 72, 1000), (129, 64, 512)]
)
def test_parts_make_the_loss_and_its_gradients(device, tokens, hidden, classes):
    inputs = case(tokens, hidden, classes, torch.bfloat16, device)
    inputs["target"][0] = 3
    found = in_parts(**inputs)
    assert_close(found, exact(inputs))
    assert not found[3]


def test_what_multiplies_a_token_may_come_after_the_product(device):
    inputs = case(40, 64, 333, torch.bfloat16, device)
    inputs["target"][[3, 30]] = IGNORED
    late = torch.randn(40, device=device)
    late[7] = 0.0
    counted = inputs["target"] != IGNORED
    input = inputs["input"][counted].double().requires_grad_()
    weight = inputs["weight"].double().requires_grad_()
    each = reference(input, weight, inputs["target"][counted], reduction="none")
    loss = (each * late[counted].double()).sum()
    loss.backward()
    dinput = torch.zeros_like(inputs["input"], dtype=torch.float64)
    dinput[counted] = input.grad
    inputs["input"][3] = float("nan")
    assert_close(in_parts(**inputs, late=late), (loss.detach(), dinput, weight.grad))


def test_a_token_without_a_label_may_hold_anything(device):
    inputs = case(40, 32, 333, torch.bfloat16, device)
    inputs["target"][[3, 30]] = IGNORED
    wanted = exact(inputs)
    inputs["input"][3] = float("nan")
    inputs["input"][30, 5] = float("inf")
    assert_close(in_parts(**inputs), wanted)


def test_a_logit_far_above_the_labels_has_the_product_made_again(device):
    inputs = case(20, 64, 600, torch.bfloat16, device)
    inputs["input"] *= 100
    found = in_parts(**inputs)
    assert found[3]
    assert exact(inputs)[0] > 200
    assert_close(found, exact(inputs))


def test_a_sum_that_falls_short_of_the_label_makes_no_negative_loss(device):
    tokens, hidden, classes = 3, 16, 24
    inputs = case(tokens, hidden, classes, torch.bfloat16, device)
    inputs["target"][:] = 5
    floats = {"device": device, "dtype": torch.float32}
    score = torch.tensor([2.0, 3.0, 4.0], **floats)
    # exp(score - reference) is 1; products that are added up in another order may give less.
    sums, maxima = torch.zeros(2, tokens, 8, **floats)
    sums[:, 0] = torch.tensor([0.9999, 1.0, 1.25], **floats)
    row_loss, row_z_loss, factor = torch.empty(3, tokens, **floats)
    e = torch.ones(tokens, classes, device=device).bfloat16()
    operator("scaled_exp_rows_")(
        inputs["input"],
        inputs["target"],
        score,
        sums,
        maxima,
        torch.ones(3, **floats),
        score / math.log(2),
        e,
        row_loss,
        row_z_loss,
        factor,
        torch.empty_like(inputs["input"]),
        torch.zeros(1, dtype=torch.long, device=device),
        classes,
        IGNORED,
        False,
    )
    assert row_loss[0] == 0
    assert row_loss[1:].tolist() == pytest.approx([0, math.log(1.25)], abs=1e-6)
    assert e[:, 5].tolist() == pytest.approx([0, 0, -0.25], abs=1e-6)
    assert factor.tolist() == pytest.approx([1 / 0.9999, 1, 0.8], rel=1e-6)


def kernels_of_warm_up(target, input, weight, **options):
    """Their number, for a step with these tensors."""
    labels = torch.zeros(len(input), dtype=torch.long, device="meta")
    leaves = {"input": input.requires_grad_(), "weight": weight.requires_grad_()}

    def step():
        fused_linear_cross_entropy(**leaves, target=labels, **options).backward()

    return kernels_of_step(step, target)


def kernels_of_step(step, target):
    count = prepare(step, target, awaited=True)
    assert not wait(lambda done, total: None)  # they compile
    return count


def meta(*shape):
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
def test_a_warm_up_makes_exponentials_beside_what_fewer_tokens_take(strided):
    input = meta(8192, 264)[:, :256] if strided else meta(8192, 256)
    weight = meta(256, 32000).t() if strided else meta(32000, 256)
    by_logits = kernels_of_warm_up("sm_90a", input, weight, label_smoothing=0.1)
    assert kernels_of_warm_up("sm_90a", input, weight) == by_logits + 3
    assert kernels_of_warm_up("sm_90a", input[:1024], weight) == by_logits
    assert kernels_of_warm_up("sm_80", input, weight) == by_logits


def kernels_of_policy(input, weight, **options):
    states, ids, mask = input.view(8, 1024, 256), meta(8, 1024).long(), meta(8, 1024).float()

    def step():
        fused_linear_grpo(states, weight, ids, mask, meta(8).float(), **options).loss.backward()

    return kernels_of_step(step, "sm_90a")


def kernels_of_pairs(input, weight, **options):
    states, ids = input.view(8, 1024, 256), meta(8, 1024).long()

    def step():
        fused_linear_dpo(states, weight, ids, **options).loss.backward()

    return kernels_of_step(step, "sm_90a")


def test_exact_makes_logits_where_exponentials_are_quicker():
    input, weight = meta(8192, 256).requires_grad_(), meta(32000, 256).requires_grad_()
    logits = kernels_of_warm_up("sm_80", input, weight)
    assert kernels_of_warm_up("sm_90a", input, weight, exact=True) == logits
    assert kernels_of_warm_up("sm_90a", input, weight, exact=False) == logits + 3
    for kernels_of in (kernels_of_policy, kernels_of_pairs):
        # What a temperature makes is what exponentials cannot follow.
        exact = kernels_of(input, weight, exact=True)
        assert exact == kernels_of(input, weight, temperature=2.0)
        assert exact < kernels_of(input, weight, exact=False)


def launches_of(call):
    before = stats()["counters"]["launches"]
    result = call()
    return result, stats()["counters"]["launches"] - before


def whole(inputs, wrt=("input", "weight"), **options):
    """Loss and gradients of the public function."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in wrt}
    loss = fused_linear_cross_entropy(**{**inputs, **leaves}, **options)
    loss.backward()
    return loss.detach(), *(leaf.grad for leaf in leaves.values())


# Several chunks, the last of them ragged, or a single token; rows of 32001 logits stand 32008 apart
LARGE = pytest.mark.parametrize(
    "tokens,hidden,classes", [(4500, 256, 32001), (4097, 512, 32001), (2048, 1024, 32000)]
)


@served
@LARGE
def test_the_whole_is_close_to_float64_and_has_the_same_bits_again(tokens, hidden, classes):
    inputs = case(tokens, hidden, classes, torch.bfloat16, "cuda")
    inputs["target"][::7] = IGNORED
    found, launches = launches_of(lambda: whole(inputs, chunk_tokens=2048))
    chunks = -(-tokens // 2048)
    # The count, the reference, product and rows twice a chunk, the sum and two scalings.
    assert launches == 5 + 4 * chunks
    wanted = exact(inputs)
    assert relative_error(found[0], wanted[0]) < 1e-5
    # Beside what is rounded here, the library's product may add its parts in bfloat16.
    by_logits, launches = launches_of(
        lambda: whole(inputs, chunk_tokens=2048, lse_square_scale=1e-30)
    )
    assert launches == 4 + chunks
    for ours, theirs, right in zip(found[1:], by_logits[1:], wanted[1:], strict=True):
        assert relative_error(ours, right) < relative_error(theirs, right) + ROUNDING / 2
    again = whole(inputs, chunk_tokens=2048)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@served
def test_extreme_logits_are_right_in_the_whole():
    inputs = case(2048, 512, 32000, torch.bfloat16, "cuda")
    inputs["input"] *= 60
    found, wanted = whole(inputs), exact(inputs)
    assert wanted[0] > 100
    assert relative_error(found[0], wanted[0]) < 1e-5
    assert relative_error(found[1], wanted[1]) < 2 * ROUNDING
    assert relative_error(found[2], wanted[2]) < 2 * ROUNDING


@served
def test_what_is_not_wanted_is_not_made():
    inputs = case(2048, 512, 32000, torch.bfloat16, "cuda")
    loss, dinput, dweight = whole(inputs)
    assert torch.equal(fused_linear_cross_entropy(**inputs), loss)
    assert all(map(torch.equal, whole(inputs, ("input",)), (loss, dinput)))
    assert all(map(torch.equal, whole(inputs, ("weight",)), (loss, dweight)))


@served
def test_a_loss_alone_keeps_no_logits():
    inputs = case(8192, 256, 128256, torch.bfloat16, "cuda")
    fused_linear_cross_entropy(**inputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fused_linear_cross_entropy(**inputs)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20


@served
def test_a_captured_graph_gives_the_same_bits():
    inputs = case(2048, 512, 32000, torch.bfloat16, "cuda")
    wanted = whole(inputs)
    extreme = {**inputs, "input": inputs["input"] * 60}
    wanted_of_extreme = whole(extreme)
    assert wanted_of_extreme[0] > 100  # has the product made again
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        whole(inputs)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        found = whole(inputs)
    input = inputs["input"].clone()
    inputs["input"].copy_(extreme["input"])
    graph.replay()
    assert all(map(torch.equal, found, wanted_of_extreme))
    inputs["input"].copy_(input)
    graph.replay()
    assert all(map(torch.equal, found, wanted))


@served
def test_a_label_that_is_none_is_told_of():
    inputs = case(2048, 512, 32000, torch.bfloat16, "cuda")
    inputs["target"][1500] = 32000
    loss = fused_linear_cross_entropy(**inputs)
    torch.cuda.synchronize()
    assert loss.isnan()
    inputs["target"][1500] = 0
    with pytest.raises(ValueError, match=r"element 1500 of argument 'target' is 32000"):
        fused_linear_cross_entropy(**inputs)


@served
def test_exact_reads_logits():
    inputs = case(4096, 512, 32000, torch.bfloat16, "cuda")
    found, launches = launches_of(lambda: whole(inputs, chunk_tokens=2048, exact=True))
    assert launches == 4 + 2  # as any loss of logits, one a chunk
    for ours, right in zip(found[1:], exact(inputs)[1:], strict=True):
        assert relative_error(ours, right) < 2 * ROUNDING
