"""The least memory of a fused linear loss by tiles of the classes: as exact as the logits whole."""

from functools import partial

import liger_jit
import pytest
import torch
from accuracy import assert_refused, cast, dtypes_of, relative_error, run
from compilers import needs
from fused_linear_cross_entropy_test import case, check, mostly_ignored, reference
from liger_jit.functional import cross_entropy, fused_linear_cross_entropy
from liger_jit.warmup import meta_replay, prepare, wait
from loss_reference import OPTIONS, cross_entropy_reference
from samples import DTYPES, operator
from torch.profiler import ProfilerActivity, profile

least = partial(fused_linear_cross_entropy, memory="min")
check_least = partial(check, chunk_tokens=-1)
WRT = ("input", "weight", "bias")

# tokens, hidden, classes. Odd: groups of tokens and tiles of classes whose last is ragged.
ODD, EVEN = (1000, 32, 8191), (1024, 32, 8192)
SMALL = (300, 16, 4099)  # by tiles in float32 and float64


def widest_product(call):
    """Columns of the widest product that the call makes."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as found:
        call()
    shapes = [e.input_shapes for e in found.events() if e.name in ("aten::mm", "aten::addmm")]
    return max(shape[1] for each in shapes for shape in each if len(shape) == 2)


@pytest.mark.parametrize("sizes", [ODD, EVEN, SMALL])
def test_these_sizes_go_by_tiles(device, sizes):
    small = (torch.float32, torch.float64)
    for dtype in [d for d in dtypes_of(device) if sizes != SMALL or d in small]:
        inputs = case(*sizes, dtype, device)
        assert widest_product(partial(run, least, inputs, ("weight",))) <= 1024


def test_only_the_gradient_of_the_weight_makes_two_passes_worth_it(device):
    inputs = case(*SMALL, torch.float32, device)
    assert widest_product(lambda: run(least, inputs, ("input",))) == SMALL[2]
    assert widest_product(lambda: least(**inputs)) == SMALL[2]


@pytest.mark.parametrize("sizes", [ODD, EVEN])
def test_every_dtype_is_as_exact_as_eager(device, sizes):
    for dtype in dtypes_of(device):
        check_least(case(*sizes, dtype, device, bias=True), WRT)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "class weights"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_exact_as_eager(device, name, weighted):
    options = OPTIONS[name]
    ignored = options.get("ignore_index", -100)
    inputs = case(*SMALL, torch.float32, device, True, weighted, ignored)
    check_least(inputs, WRT, **options)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_token_scaling_weighs_a_row_by_the_probability_of_its_label(device, reduction):
    inputs = case(*SMALL, torch.float32, device, bias=True, ce_weight=True)
    for options in [OPTIONS["plain"], OPTIONS["all at once"]]:
        options = {**options, "reduction": reduction, "token_scaling": True}
        truth = run(partial(reference, **options), cast(inputs, torch.float64), WRT)
        result = run(partial(least, **options), inputs, WRT)
        for key, value in truth.items():
            assert relative_error(result[key], value) < 1e-6, key


def test_bfloat16_with_every_option_is_as_exact_as_eager(device):
    inputs = case(*ODD, torch.bfloat16, device, bias=True, ce_weight=True)
    check_least(inputs, WRT, **OPTIONS["all at once"])


@pytest.mark.parametrize("name", ["plain", "all at once"])
def test_rows_with_gradients_of_their_own_are_as_exact_as_eager(device, name):
    inputs = case(*SMALL, torch.float32, device, bias=True)
    result = check_least(inputs, WRT, "random", **{**OPTIONS[name], "reduction": "none"})
    assert result["output 0"].shape == (SMALL[0],)


@pytest.mark.parametrize("name", ["plain", "all at once"])
def test_chunks_of_tokens_give_the_same_within_rounding(device, name):
    inputs = case(*SMALL, torch.float32, device, bias=True, ce_weight=True)
    options = {**OPTIONS[name], "num_items": 77}
    tiles = run(partial(least, **options), inputs, WRT)
    chunks = run(partial(fused_linear_cross_entropy, chunk_tokens=300, **options), inputs, WRT)
    for key, value in chunks.items():
        assert relative_error(tiles[key], value) < 1e-6, key


@pytest.mark.parametrize("wrt", [("weight",), ("weight", "bias"), ("input", "weight")])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_right_one(device, wrt):
    inputs = case(*SMALL, torch.float32, device, bias=True)
    every = run(least, inputs, WRT)
    some = run(least, inputs, wrt)
    for name in wrt:
        assert torch.equal(some[f"gradient of {name}"], every[f"gradient of {name}"])


def test_the_same_bits_each_time(device):
    inputs = case(*ODD, torch.bfloat16, device, bias=True)
    first = run(least, inputs, WRT)
    second = run(least, inputs, WRT)
    assert all(torch.equal(second[key], value) for key, value in first.items())


def test_few_groups_round_the_gradient_of_the_weight_less_than_many_chunks(device):
    inputs = case(*ODD, torch.bfloat16, device)
    wrt = ("input", "weight")
    truth = run(reference, cast(inputs, torch.float64), wrt)["gradient of weight"]

    def error(**options):
        result = run(partial(fused_linear_cross_entropy, **options), inputs, wrt)
        return relative_error(result["gradient of weight"], truth)

    tiles = error(memory="min")
    assert tiles < 0.75 * error(chunk_tokens=16, accum_dtype=torch.bfloat16)
    wide = error(memory="min", accum_dtype=torch.float32)
    assert wide < tiles < 1.5 * wide


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_overflow_nowhere_whichever_tile_has_them(device, size):
    inputs = case(*SMALL, torch.float32, device)
    rows, hidden, classes = SMALL
    inputs["target"] = torch.arange(rows, device=device)
    # The first rows have one large logit each, in the first tile, in others, and in the last.
    inputs["input"].zero_()
    inputs["weight"].zero_()
    large = torch.tensor([3, 200, 2049, classes - 1], device=device)
    for row, column in enumerate(large):
        inputs["input"][row, row] = 1
        inputs["weight"][column, row] = size
    inputs["input"][4, 4] = 1
    inputs["weight"][:, 4] = -size
    inputs["target"][3] = classes - 1
    function = partial(least, reduction="none")
    result = run(function, inputs, ("input", "weight"))
    log_sum = torch.tensor(float(classes), device=device).log()
    wanted = log_sum.expand(rows).clone()
    wanted[:3] = size
    wanted[3] = 0
    torch.testing.assert_close(result["output 0"], wanted)
    if size < 1e30:
        check_least(inputs, ("input", "weight"), reduction="none")
    assert result["gradient of input"].isfinite().all()
    assert result["gradient of weight"].isfinite().all()


def test_predictions_accuracy_and_z_loss_are_those_of_the_whole_logits(device):
    inputs = case(*SMALL, torch.float32, device)
    # Whole numbers, so that products are exact; the same weights in two tiles, so that two classes
    # are largest: the first counts.
    inputs["input"].round_()
    inputs["weight"].mul_(4).round_()
    inputs["weight"][3000:4000] = inputs["weight"][:1000]
    options = {
        "return_z_loss": True,
        "return_token_accuracy": True,
        "return_predicted_tokens": True,
        **OPTIONS["all at once"],
    }
    inputs["weight"].requires_grad_()
    result = least(**inputs, **options)
    logits = inputs["input"] @ inputs["weight"].detach().t()
    wanted = cross_entropy(logits, inputs["target"], **options)
    assert (wanted.predicted_tokens < 1000).any()
    assert torch.equal(result.predicted_tokens, wanted.predicted_tokens)
    torch.testing.assert_close(result.token_accuracy, wanted.token_accuracy)
    torch.testing.assert_close(result.z_loss.detach(), wanted.z_loss)
    torch.testing.assert_close(result.loss.detach(), wanted.loss)


def test_ignored_tokens_are_left_out_of_the_products(device):
    inputs, counted = mostly_ignored(1500, device)
    options = {"counted_tokens": counted, "memory": "min"}
    inputs["weight"] = torch.randn(4099, 32, device=device)
    inputs["bias"] = torch.randn(4099, device=device)
    inputs["input"][inputs["target"] == -100] = float("nan")
    function = partial(fused_linear_cross_entropy, **options)
    assert widest_product(lambda: run(function, inputs, WRT)) <= 1024
    result = run(function, inputs, WRT)
    labelled = inputs["target"] != -100
    kept = {**inputs, "input": inputs["input"][labelled], "target": inputs["target"][labelled]}
    truth = run(reference, cast(kept, torch.float64), WRT)
    assert not result["gradient of input"][~labelled].any()
    result["gradient of input"] = result["gradient of input"][labelled]
    for key, value in truth.items():
        assert relative_error(result[key], value) < 2e-6, key


def test_no_label_at_all_gives_the_mean_of_torch_and_no_gradient(device):
    inputs = case(*SMALL, torch.float32, device)
    inputs["target"].fill_(-100)
    result = run(least, inputs, ("input", "weight"))
    assert result["output 0"].isnan()
    assert not result["gradient of input"].any()
    assert not result["gradient of weight"].any()


def test_a_label_out_of_range_on_the_cpu_is_an_error_that_names_row_and_value():
    inputs = case(*SMALL, torch.float32, "cpu")
    inputs["target"][270] = SMALL[2]
    call = partial(run, least, inputs, ("weight",))
    assert_refused(call, "fused_linear_cross_entropy", "target", r"\b270\b", str(SMALL[2]))


def test_a_label_out_of_range_on_a_gpu_spoils_its_row_and_is_reported_by_check(cuda):
    inputs = case(*SMALL, torch.float32, cuda)
    inputs["target"][270] = SMALL[2]
    result = run(least, inputs, ("input", "weight"))
    assert result["output 0"].isnan()
    assert not result["gradient of input"][270].any()
    assert result["gradient of weight"].isfinite().all()
    assert_refused(liger_jit.check, "target", r"\b270\b", str(SMALL[2]))


# A loss scaler's factor arrives after the division by the number of rows.
def test_a_scaled_float16_mean_is_as_exact_as_eager(device):
    inputs = case(*ODD, torch.float16, device)
    inputs["target"].fill_(0)  # its own gradient, a thousand times the others, would hide them
    scale = 2.0**16

    def gradient(loss, dtype):
        leaves = cast(inputs, dtype)
        leaves["weight"] = leaves["weight"].clone().requires_grad_()
        (scale * loss(**leaves)).backward()
        return leaves["weight"].grad[1:]

    def eager(input, weight, target):
        logits = input @ weight.t()
        exact = torch.promote_types(logits.dtype, torch.float32)
        return cross_entropy_reference(logits.to(exact), target)[0]

    exact = gradient(eager, torch.float64)
    limit = 1.1 * relative_error(gradient(eager, torch.float16), exact)
    assert relative_error(gradient(least, torch.float16), exact) <= limit


def test_after_a_warmup_the_first_step_compiles_nothing(device):
    sizes = (1000, 32, 8190)
    inputs = case(*sizes, torch.bfloat16, device, bias=True)
    meta = {
        name: value.to("meta").requires_grad_(value.is_floating_point())
        for name, value in inputs.items()
    }
    specs = [
        ("fused_linear_cross_entropy", {**meta, "chunk_tokens": -1}),
        ("linear_cross_entropy_each", {**meta, "chunk_tokens": -1}),
    ]
    assert liger_jit.warmup(specs, device=device, progress=False)["units"] >= 4
    before = liger_jit.stats()["counters"]["compiled"]
    run(least, inputs, WRT)
    run(partial(least, reduction="none"), inputs, WRT)
    assert liger_jit.stats()["counters"]["compiled"] == before


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "gfx90a"])
def test_kernels_of_every_option_compile_for_gpus_that_are_not_here(arch):
    needs("hip" if arch.startswith("g") else "cuda")
    for dtype in (torch.bfloat16, torch.float32):
        inputs = case(*ODD, dtype, "cpu", bias=True, ce_weight=True)
        for name in inputs:
            inputs[name] = inputs[name].to("meta")
            inputs[name].requires_grad_(name in WRT)
        options = {"label_smoothing": 0.1, "lse_square_scale": 1e-3, "softcap": 5.0}
        options |= {"chunk_tokens": -1, "token_scaling": True, "want_accuracy": True}
        replay = meta_replay([("fused_linear_cross_entropy", inputs | options)])
        assert prepare(replay, arch, awaited=True) >= 4  # totals, both passes, mean
        assert wait(lambda done, total: None) == []


def test_nothing_waits_for_the_gpu(cuda):
    inputs = case(*ODD, torch.bfloat16, cuda)
    run(least, inputs, ("input", "weight"))  # compiles and tunes, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(partial(least, num_items=12), inputs, ("input", "weight"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# 40 and 136: fewer packs than threads; 1024 and 4096: what large losses take. The tiles leave up to
# seven columns of their memory unused, which may hold anything.
@pytest.mark.parametrize("width", [8, 40, 136, 1024, 4096])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_tiles_one_by_one_give_the_loss_and_gradient_of_the_whole_row(device, width, dtype):
    rows, columns = 5, width - 3
    logits = (3 * torch.randn(rows, 3 * columns - 1, device=device)).to(DTYPES[dtype])
    classes = logits.shape[1]
    target = torch.tensor([0, columns, -100, classes - 1, columns - 1], device=device)
    exact = logits.double().requires_grad_()
    wanted = cross_entropy_reference(exact, target, reduction="none")[0]
    wanted.sum().backward()

    def tile(first):
        part = torch.full((rows, width), float("nan"), dtype=logits.dtype, device=device)
        count = min(columns, classes - first)
        part[:, :count] = logits[:, first : first + count]
        return part, {"first_column": first, "columns": count, "classes": classes}

    loss, z_loss = torch.zeros(2, rows, device=device)
    running = torch.full((rows, 5), float("nan"), device=device, dtype=torch.float64)
    gradient = torch.full((rows, 4), float("nan"), device=device)
    state = {"running": running, "gradient": gradient, "loss": loss, "z_loss": z_loss}
    absent = dict.fromkeys(["weight", "totals", "grad_output", "predicted"])
    for first in range(0, classes, columns):
        part, where = tile(first)
        operator("cross_entropy_accumulate_")(part, target, **state, **absent, **where, reduction=0)
    limit = 1e-6 if dtype == "f32" else 2e-5
    assert relative_error(loss, wanted.detach()) < limit
    found = torch.empty_like(logits)
    for first in range(0, classes, columns):
        part, where = tile(first)
        operator("cross_entropy_tile_gradient_")(part, target, None, gradient, **where)
        found[:, first : first + where["columns"]] = part[:, : where["columns"]]
    rounded = relative_error(exact.grad.to(logits.dtype), exact.grad)
    assert relative_error(found, exact.grad) <= 1.05 * rounded + limit


def test_the_peak_of_memory_is_what_the_law_promises(cuda):
    tokens, hidden, classes = 8192, 512, 64000
    inputs = case(tokens, hidden, classes, torch.bfloat16, cuda)
    leaves = {
        name: value.requires_grad_(value.is_floating_point()) for name, value in inputs.items()
    }
    least(**leaves).backward()  # libraries take their workspace
    gradients = (tokens + classes) * hidden * 2
    for name in ("input", "weight"):
        leaves[name].grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    least(**leaves).backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.05 * gradients + tokens * hidden * 2 + (4 << 20)
