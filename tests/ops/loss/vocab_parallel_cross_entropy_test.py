"""Cross entropy of spread classes on one rank, and the merging of parts: against float64."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit import ops
from liger_jit.functional import vocab_parallel_cross_entropy
from liger_jit.library import native
from liger_jit.transformers import LigerVocabParallelCrossEntropy

FORMULAS = ("pytorch", "megatron")
MODES = ("global", "partition")


def reference(logits, target, smoothing=0.0, formula="pytorch", part=slice(None)):
    """`part`: the classes over which smoothing averages."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    lse = z.logsumexp(-1)
    safe = target.clamp(min=0)
    score = z.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
    classes = z[..., part].shape[-1]
    a = smoothing * classes / (classes - 1) if formula == "megatron" else smoothing
    loss = (1 - a) * (lse - score)
    if smoothing:
        loss = loss + a * (lse - z[..., part].mean(-1))
    return loss.masked_fill(target == -100, 0.0)


def tensors(rows, classes, dtype, device):
    target = torch.randint(classes, (rows,), device=device)
    target[rows // 3] = -100
    return {"logits": 2 * torch.randn(rows, classes, device=device).to(dtype), "target": target}


def with_options(**options):
    return lambda logits, target: vocab_parallel_cross_entropy(logits, target, **options)


# 2, 7: no vector load fits; 1000 and 1025: ragged; 4096, 32000: rows that a GPU's block holds;
# 50257: rows that start anywhere.
@pytest.mark.parametrize("classes", [2, 7, 129, 1000, 1023, 1025, 4096, 32000, 50257])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, classes):
    inputs = tensors(9, classes, torch.bfloat16, device)
    assert_as_exact_as_eager(vocab_parallel_cross_entropy, reference, inputs, ["logits"])


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        inputs = tensors(33, 1001, dtype, device)
        assert_as_exact_as_eager(vocab_parallel_cross_entropy, reference, inputs, ["logits"])


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smoothing_of_both_formulas(device, formula, mode, dtype):
    inputs = tensors(17, 2056, dtype, device)
    assert_as_exact_as_eager(
        with_options(
            label_smoothing=0.1, label_smoothing_formula=formula, label_smoothing_mode=mode
        ),
        lambda logits, target: reference(logits, target, 0.1, formula),
        inputs,
        ["logits"],
    )


def test_it_is_the_cross_entropy_of_torch(device):
    inputs = tensors(20, 300, torch.float32, device)
    mine = vocab_parallel_cross_entropy(**inputs, label_smoothing=0.2)
    theirs = torch_functional.cross_entropy(
        inputs["logits"], inputs["target"], reduction="none", label_smoothing=0.2
    )
    torch.testing.assert_close(mine, theirs)


def parts_of(logits, target, ranks, smoothing):
    """What the ranks would tell each other."""
    parts = logits.chunk(ranks, -1)
    told = [
        native().vocab_parallel_statistics(part, target, rank, -100, smoothing != 0)
        for rank, part in enumerate(parts)
    ]
    return parts, torch.stack(told)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("classes", [6, 100, 2304])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mode", MODES)
def test_parts_make_the_loss_and_gradient_of_the_whole(
    device, ranks, classes, smoothing, formula, mode
):
    inputs = tensors(13, ranks * classes, torch.float32, device)
    options = (-100, smoothing, FORMULAS.index(formula), MODES.index(mode))
    dy = torch.rand(13, device=device)
    parts, told = parts_of(**inputs, ranks=ranks, smoothing=smoothing)
    for rank, part in enumerate(parts):
        own = slice(rank * classes, (rank + 1) * classes)
        whole = inputs["logits"].double().requires_grad_()
        average = own if mode == "partition" else slice(None)
        wanted = reference(whole, inputs["target"], smoothing, formula, average)
        wanted.backward(dy.double())
        leaf = part.detach().requires_grad_()
        loss, _ = ops.vocab_parallel_cross_entropy(
            leaf, inputs["target"], told, rank, ranks, *options
        )
        loss.backward(dy)
        torch.testing.assert_close(loss.double(), wanted.detach(), rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(leaf.grad.double(), whole.grad[:, own], rtol=2e-6, atol=2e-7)


def test_extreme_values(device):
    inf = float("inf")
    logits = torch.tensor(
        [[1e30, 0, 0, 0], [-inf, -inf, 0, 1], [300, -inf, 299, 0], [-1e4, -1e4, -1e4, -1e4]],
        device=device,
    )
    target = torch.tensor([0, 3, 2, 1], device=device)
    wanted = reference(logits.double(), target)
    torch.testing.assert_close(vocab_parallel_cross_entropy(logits, target).double(), wanted)
    parts, told = parts_of(logits, target, 2, 0.0)
    for rank, part in enumerate(parts):
        leaf = part.detach().requires_grad_()
        loss, _ = ops.vocab_parallel_cross_entropy(leaf, target, told, rank, 2, -100, 0.0, 0, 0)
        torch.testing.assert_close(loss.double(), wanted)
        loss.sum().backward()
        softmax = logits.double().softmax(-1)
        softmax[torch.arange(4), target] -= 1
        torch.testing.assert_close(leaf.grad.double(), softmax[:, 2 * rank : 2 * rank + 2])


def test_an_ignored_row_may_hold_anything(device):
    logits = torch.randn(3, 40, device=device)
    logits[1] = float("nan")
    target = torch.tensor([4, -100, 39], device=device)
    found = run(with_options(label_smoothing=0.1), {"logits": logits, "target": target}, ["logits"])
    loss, gradient = found["output 0"], found["gradient of logits"]
    assert loss[1] == 0 and loss.isfinite().all()
    assert not gradient[1].any() and gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 0, 3), (2, 3, 4)])
def test_the_loss_has_the_shape_of_the_target(device, shape):
    logits = torch.randn(*shape, 12, device=device, requires_grad=True)
    target = torch.randint(12, shape, device=device)
    loss = vocab_parallel_cross_entropy(logits, target)
    assert loss.shape == shape and loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference(logits, target))
    loss.sum().backward()
    assert logits.grad.shape == logits.shape


def test_rows_of_wider_ones_are_read_in_place(device):
    wide = torch.randn(6, 50, device=device).bfloat16()
    target = torch.randint(40, (6,), device=device)
    for begin in (0, 1, 8):
        view = wide[:, begin : begin + 40]
        inputs = {"logits": view, "target": target}
        plain = {"logits": view.contiguous(), "target": target}
        mine, wanted = (
            run(vocab_parallel_cross_entropy, one, ["logits"]) for one in (inputs, plain)
        )
        for name, value in wanted.items():
            assert torch.equal(mine[name], value), name


def test_a_label_outside_is_told_with_its_row_and_value(device):
    for bad in (8, -1):
        target = torch.tensor([0, 7, bad], device=device)

        def call(target=target):
            loss = vocab_parallel_cross_entropy(torch.zeros(3, 8, device=device), target)
            if device == "cuda":
                torch.cuda.synchronize()
                assert loss[2].isnan() and loss[:2].isfinite().all()
                native()._check()

        assert_refused(
            call,
            "vocab_parallel_cross_entropy: element 2 of argument 'target'",
            f"is {bad}",
            "0 to 7 and ignore_index",
        )


def test_errors_name_the_argument_and_what_is_allowed(device):
    logits = torch.zeros(3, 8, device=device)
    target = torch.zeros(3, dtype=torch.long, device=device)
    loss = vocab_parallel_cross_entropy
    assert_refused(lambda: loss(logits, target[:2]), "'target'", r"\[2\] i64", r"\[3\]")
    assert_refused(lambda: loss(logits, target.int()), "'target'", "i32", "i64")
    assert_refused(
        lambda: loss(logits, target, label_smoothing=1.0), "'label_smoothing'", "less than 1"
    )
    assert_refused(
        lambda: loss(logits, target, label_smoothing_formula="x"), "'x'", "pytorch", "megatron"
    )
    assert_refused(
        lambda: loss(logits, target, label_smoothing_mode="x"), "'x'", "global", "partition"
    )
    options = {"label_smoothing": 0.1, "label_smoothing_formula": "megatron"}
    assert_refused(lambda: loss(logits[:, :1], target, **options), "'logits'", "two classes")
    op = ops.vocab_parallel_cross_entropy
    assert_refused(lambda: op(logits, target, None, 0, 2), "'statistics' is None", r"\[2, 3, 4\]")
    assert_refused(lambda: op(logits, target, None, 1, 1), "'rank' is 1", "0 to 0")
    assert_refused(
        lambda: op(logits, target, logits, 0, 2), "'statistics'", r"\[3, 8\]", r"\[2, 3, 4\] f32"
    )


def test_the_module_takes_its_options(device):
    inputs = tensors(6, 50, torch.float32, device)
    module = LigerVocabParallelCrossEntropy(-100, 0.1, "none", "megatron", "partition")
    logits, target = inputs["logits"].view(3, 2, 50), inputs["target"].view(3, 2)
    torch.testing.assert_close(module(logits, target), reference(logits, target, 0.1, "megatron"))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, target), module(logits, target))
    name = "LigerVocabParallelCrossEntropy"
    assert_refused(lambda: LigerVocabParallelCrossEntropy(reduction="mean"), name, "'none'")
    assert_refused(lambda: LigerVocabParallelCrossEntropy(label_smoothing=1), name, "less than 1.0")
    assert_refused(
        lambda: LigerVocabParallelCrossEntropy(label_smoothing_formula="x"), "'x'", "'megatron'"
    )
