"""Cross entropy at the edges: extreme logits, labels out of range, wrong arguments, host syncs."""

from concurrent.futures import ThreadPoolExecutor

import liger_jit
import pytest
import torch
from accuracy import DTYPES, assert_refused, relative_error, run
from liger_jit.functional import cross_entropy, fused_linear_cross_entropy
from loss_reference import cross_entropy_reference, labels


def of_logits(rows, vocabulary, device):
    return cross_entropy, torch.randn(rows, vocabulary, device=device)


def of_hidden_states(rows, vocabulary, device):
    weight = torch.randn(vocabulary, 16, device=device)
    weight[0] = 0

    def loss(hidden, target, class_weight=None, **options):
        head = weight.to(hidden.dtype)
        return fused_linear_cross_entropy(hidden, head, target, None, class_weight, **options)

    loss.weight = weight
    return loss, torch.randn(rows, 16, device=device)


# Each makes a loss of (x, target, class weights) and an x for it.
LOSSES = {"cross_entropy": of_logits, "fused_linear_cross_entropy": of_hidden_states}
both_losses = pytest.mark.parametrize("op", LOSSES)


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_overflow_nowhere(device, size):
    logits = torch.zeros(4, 64, device=device)
    logits[0, 3] = logits[1, 5] = size
    logits[2] = -size
    target = torch.tensor([3, 4, 0, 63], device=device)
    result = run(
        lambda **all_: cross_entropy(**all_, reduction="none"),
        {"logits": logits, "target": target},
        ("logits",),
    )
    log_64 = torch.tensor(64.0, device=device).log()
    wanted = torch.stack([log_64 * 0, log_64 * 0 + size, log_64, log_64])
    torch.testing.assert_close(result["output 0"], wanted)
    assert result["gradient of logits"].isfinite().all()


def test_masked_logits_of_minus_infinity_have_no_probability_and_no_gradient(device):
    for dtype in DTYPES:
        logits = torch.randn(4, 64, device=device).to(dtype)
        logits[:, 32:] = -float("inf")
        inputs = {"logits": logits, "target": torch.tensor([0, 5, 31, 7], device=device)}
        result = run(cross_entropy, inputs, ("logits",))
        kept = run(cross_entropy, {**inputs, "logits": logits[:, :32]}, ("logits",))
        torch.testing.assert_close(result["output 0"], kept["output 0"])
        assert not result["gradient of logits"][:, 32:].any()
        torch.testing.assert_close(result["gradient of logits"][:, :32], kept["gradient of logits"])


def test_nan_and_infinite_logits_spoil_their_own_row_only(device):
    logits = torch.randn(4, 64, device=device)
    logits[1, 3], logits[2, 5] = float("nan"), float("inf")
    target = torch.tensor([3, 4, 0, 63], device=device)
    loss = cross_entropy(logits, target, reduction="none")
    wanted = cross_entropy_reference(logits, target, reduction="none")[0]
    assert torch.equal(loss.isfinite(), torch.tensor([True, False, False, True], device=device))
    torch.testing.assert_close(loss[[0, 3]], wanted[[0, 3]])


def test_an_ignored_row_may_hold_anything(device):
    logits = torch.randn(3, 64, device=device)
    logits[1] = float("nan")
    target = torch.tensor([3, -100, 63], device=device)
    result = run(cross_entropy, {"logits": logits, "target": target}, ("logits",))
    assert result["output 0"].isfinite()
    assert not result["gradient of logits"][1].any()


def gradients_of_both(op, device, dtype, target, grad_output, **options):
    """Of the input and, for the linear loss, of the head."""
    x = torch.randn(len(target), 64, device=device).to(dtype).requires_grad_()
    head = torch.randn(64, 64, device=device).to(dtype).requires_grad_()
    if op == "cross_entropy":
        leaves, loss = [x], cross_entropy(x, target, **options)
    else:
        leaves, loss = [x, head], fused_linear_cross_entropy(x, head, target, **options)
    return torch.autograd.grad(loss, leaves, torch.full_like(loss, grad_output))


@pytest.mark.parametrize("grad_output", [1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@both_losses
def test_what_is_ignored_has_no_gradient_whatever_comes_from_above(
    device, op, reduction, grad_output
):
    """A sum over no label, divided by a count of zero, is such a loss: torch's gradients are 0."""
    for dtype in DTYPES:
        ignored = torch.full((5,), -100, device=device)
        for gradient in gradients_of_both(
            op, device, dtype, ignored, grad_output, reduction=reduction
        ):
            assert not gradient.any()
        some = torch.tensor([3, -100, 0, -100, 63], device=device)
        gradient = gradients_of_both(op, device, dtype, some, grad_output, reduction=reduction)[0]
        assert not gradient[some == -100].any()
        assert gradient[some != -100].isfinite().all() == (grad_output == 1.0)


@both_losses
def test_a_count_of_no_items_gives_the_nan_of_torch_and_no_gradient(device, op):
    ignored = torch.full((5,), -100, device=device)
    for dtype in DTYPES:
        for gradient in gradients_of_both(op, device, dtype, ignored, 1.0, num_items=0):
            assert not gradient.any()
    logits = torch.randn(5, 64, device=device)
    if op == "cross_entropy":
        assert cross_entropy(logits, ignored, num_items=0).isnan()
    else:
        assert fused_linear_cross_entropy(logits, logits, ignored, num_items=0).isnan()


@both_losses
@pytest.mark.parametrize("label", [64, -1, 1 << 40])
def test_a_label_out_of_range_on_the_cpu_is_an_error_that_names_row_and_value(op, label):
    loss, x = LOSSES[op](4, 64, "cpu")
    target = torch.tensor([0, 63, label, 1])
    assert_refused(lambda: loss(x, target), op, "target", r"\b2\b", str(label))
    # And it leaves nothing behind.
    assert loss(x, target.clamp(0, 63)).isfinite()


@both_losses
def test_a_label_out_of_range_on_a_gpu_spoils_its_row_and_is_reported_by_check(cuda, op):
    loss, x = LOSSES[op](4, 64, cuda)
    target = torch.tensor([0, 63, 64, 1], device=cuda)
    x.requires_grad_()
    rows = loss(x, target, reduction="none")
    rows[[0, 1, 3]].sum().backward()
    assert torch.equal(rows.isnan(), target == 64)
    assert not x.grad[2].any()
    each = {"fused_linear_cross_entropy": "linear_cross_entropy_each"}.get(op, op)
    assert_refused(liger_jit.check, f"::{each}:", "target", r"\b2\b", "64")
    liger_jit.check()  # the report was taken
    assert loss(x, target.clamp(max=63)).isfinite()


@both_losses
def test_a_fault_is_raised_on_the_thread_that_made_it(op):
    loss, x = LOSSES[op](4, 64, "cpu")
    good, bad = torch.tensor([0, 63, 5, 1]), torch.tensor([0, 63, 64, 1])

    def outcomes(target):
        for _ in range(300):
            try:
                yield bool(loss(x, target).isfinite())
            except ValueError:
                yield False

    with ThreadPoolExecutor(4) as threads:
        wrong = [threads.submit(lambda: any(outcomes(bad))) for _ in range(2)]
        right = [threads.submit(lambda: all(outcomes(good))) for _ in range(2)]
        assert not any(thread.result() for thread in wrong)
        assert all(thread.result() for thread in right)


@both_losses
def test_the_first_of_several_faults_on_a_gpu_is_told_whoever_asks(cuda, op):
    loss, x = LOSSES[op](4, 64, cuda)
    (other,) = LOSSES.keys() - {op}
    last, y = LOSSES[other](4, 64, cuda)
    first = torch.tensor([0, 63, 5, 70], device=cuda)
    second = torch.tensor([-7, 0, 1, 2], device=cuda)
    loss(x, first)
    torch.cuda.synchronize()
    # The next call asks, and it is of another op.
    assert_refused(lambda: last(y, second), f"::{op}:", "target", r"\b3\b", "70", "0 to 63")
    last(y, second)
    assert_refused(liger_jit.check, f"::{other}:", "target", r"\b0\b", "-7")
    liger_jit.check()


def test_a_captured_call_blames_its_op_at_each_replay(cuda):
    logits = torch.randn(4, 64, device=cuda)
    target = torch.tensor([0, 63, 5, 1], device=cuda)
    cross_entropy(logits, target)  # compiles and tunes
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = cross_entropy(logits, target)
    graph.replay()
    liger_jit.check()
    assert loss.isfinite()
    for wrong in (64, 99):
        target[1] = wrong
        graph.replay()
        assert_refused(liger_jit.check, "::cross_entropy:", "target", r"\b1\b", str(wrong))


def test_check_waits_for_every_stream(cuda):
    logits = torch.randn(4, 64, device=cuda)
    target = torch.tensor([0, 63, 64, 1], device=cuda)
    cross_entropy(logits, target.clamp(max=63))  # compiles and tunes
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1 << 28)
        cross_entropy(logits, target)
    assert_refused(liger_jit.check, "target", r"\b2\b", "64")


@both_losses
def test_nothing_waits_for_the_gpu(cuda, op):
    loss, x = LOSSES[op](17, 129, cuda)
    target, weights = labels(17, 129, cuda), torch.rand(129, device=cuda)
    x.requires_grad_()

    def step():
        every = loss(x, target, num_items=12, return_token_accuracy=True)
        (2 * every.loss).backward()
        (2 * loss(x, target, weights, return_predicted_tokens=True).loss).backward()

    step()  # compiles and tunes, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# A loss scaler's factor arrives after the division by the number of rows.
@both_losses
def test_a_scaled_float16_mean_is_as_exact_as_eager(device, op):
    loss, x = LOSSES[op](512, 4096, device)
    # The label's own entry, a thousand times the others, would hide them.
    target, others = torch.zeros(512, dtype=torch.long, device=device), slice(1, None)
    scale = 2.0**16

    def gradient(dtype, mean_loss):
        leaf = x.to(dtype).requires_grad_()
        (scale * mean_loss(leaf)).backward()
        return leaf.grad[:, others]

    def through_logits(leaf):
        logits = leaf @ loss.weight.to(leaf.dtype).t() if hasattr(loss, "weight") else leaf
        exact = torch.promote_types(logits.dtype, torch.float32)
        return cross_entropy_reference(logits.to(exact), target)[0]

    exact = gradient(torch.float64, through_logits)
    eager = relative_error(gradient(torch.float16, through_logits), exact)
    ours = relative_error(gradient(torch.float16, lambda leaf: loss(leaf, target)), exact)
    assert ours <= 1.1 * eager


@both_losses
def test_errors_name_the_argument_and_its_value(device, op):
    loss, x = LOSSES[op](4, 64, device)
    target = torch.tensor([0, 63, 5, 1], device=device)
    wrong = torch.ones(63, device=device)
    assert_refused(lambda: loss(x, target, reduction="avg"), op, "reduction", "avg", "none")
    assert_refused(lambda: loss(x, target, num_items=3, reduction="sum"), op, "num_items", "sum")
    assert_refused(lambda: loss(x, target[:3]), op, "target", "3", "4")
    assert_refused(lambda: loss(x, target.int()), op, "target", "i32|(?i:int)")
    assert_refused(lambda: loss(x, target.float()), op, "target", "f32|(?i:float)")
    assert_refused(lambda: loss(x.long(), target), op, "logits|input", "i64|(?i:int64|long)")
    assert_refused(lambda: loss(x, target, label_smoothing=1.5), op, "label_smoothing", "1.5")
    assert_refused(lambda: loss(x, target, softcap=-2.0), op, "softcap", "-2")
    assert_refused(lambda: loss(x, target, wrong), op, "weight", "63", "64")
    assert_refused(lambda: loss(x, None), op, "target", "None", "Tensor")
    assert_refused(lambda: loss(x[0], target[0]), op, "logits|input")


@both_losses
def test_tensors_of_two_devices_are_refused(cuda, op):
    loss, x = LOSSES[op](4, 64, cuda)
    target = torch.tensor([0, 63, 5, 1])
    assert_refused(lambda: loss(x, target), op, "target", "cpu", "cuda")
