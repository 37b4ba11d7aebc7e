"""Dtypes and shapes that losses take and return under Liger Kernel's names."""

import pytest
import torch
from accuracy import assert_refused, dtypes_of
from liger_jit import functional as F
from liger_jit import transformers as liger
from liger_jit.transformers import functional as by_name

NARROW = [torch.int32, torch.int16, torch.int8, torch.uint8]


def rows_of(device, dtype, classes=40):
    torch.manual_seed(0)
    return torch.randn(6, classes, device=device).to(dtype)


def labels_of(device):
    return torch.tensor([0, 39, 7, 7, 12, 3], device=device)


def gradient(loss, *leaves):
    return torch.autograd.grad(loss.sum(), leaves)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_cross_entropy_has_the_dtype_of_its_logits(device, reduction):
    for dtype in dtypes_of(device):
        logits = rows_of(device, dtype).requires_grad_()
        target = labels_of(device)
        options = {"lse_square_scale": 0.1, "reduction": reduction, "return_z_loss": True}
        mine = by_name.liger_cross_entropy(logits, target, **options)
        exact = F.cross_entropy(logits, target, **options)
        assert mine.loss.dtype == mine.z_loss.dtype == dtype
        assert torch.equal(mine.loss, exact.loss.to(dtype))
        assert torch.equal(mine.z_loss, exact.z_loss.to(dtype))
        assert mine.loss.requires_grad and not mine.z_loss.requires_grad
        assert torch.equal(*gradient(mine.loss, logits), *gradient(exact.loss, logits))
        plain = liger.LigerCrossEntropyLoss(reduction=reduction)(logits, target)
        assert plain.dtype == dtype
        assert torch.equal(plain, F.cross_entropy(logits, target, reduction=reduction).to(dtype))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_fused_linear_cross_entropy_is_float32_and_its_z_loss_as_the_input(device, reduction):
    x, head = rows_of(device, torch.bfloat16, 24), rows_of(device, torch.bfloat16, 24)
    target = torch.tensor([0, 5, 3, 3, 2, 1], device=device)
    options = {"lse_square_scale": 0.1, "reduction": reduction, "return_z_loss": True}
    mine = by_name.liger_fused_linear_cross_entropy(x, head, target, **options)
    exact = F.fused_linear_cross_entropy(x, head, target, **options)
    assert torch.equal(mine.loss, exact.loss) and mine.loss.dtype == torch.float32
    assert torch.equal(mine.z_loss, exact.z_loss.bfloat16()) and mine.z_loss.dtype == x.dtype


# -1 is what predicted_tokens has for a row that is ignored.
@pytest.mark.parametrize("ignored", [7, -1])
@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_without_a_reduction_each_token_has_its_accuracy(device, ignored, predicted, fused):
    logits = rows_of(device, torch.float32)
    target = labels_of(device).where(labels_of(device) != 7, ignored)
    best = logits.argmax(-1)
    target[0], target[4] = best[0], best[4]
    flags = {"return_token_accuracy": True, "return_predicted_tokens": predicted}
    options = {"ignore_index": ignored, "reduction": "none", **flags}
    if fused:
        eye = torch.eye(40, device=device)
        module = liger.LigerFusedLinearCrossEntropyLoss(**options)
        output = module(eye, logits, target)
    else:
        output = liger.LigerCrossEntropyLoss(**options)(logits, target)
    wanted = (best == target) & (target != ignored)
    assert 2 <= wanted.sum() < 6
    assert torch.equal(output.token_accuracy, wanted.float())
    if predicted:
        assert torch.equal(output.predicted_tokens, best.where(target != ignored, -1))
    else:
        assert output.predicted_tokens is None
    whole = liger.LigerCrossEntropyLoss(**{**options, "reduction": "mean"})(logits, target)
    torch.testing.assert_close(whole.token_accuracy, wanted.sum() / (target != ignored).sum())


@pytest.mark.parametrize("dtype", NARROW)
def test_labels_have_any_integer_dtype(device, dtype):
    logits, wide = rows_of(device, torch.float32), labels_of(device)
    other = rows_of(device, torch.float32).flip(0)
    narrow = wide.to(dtype)
    eye = torch.eye(40, device=device)
    calls = (
        lambda target: liger.LigerCrossEntropyLoss(ignore_index=7)(logits, target),
        lambda target: liger.LigerFusedLinearCrossEntropyLoss(ignore_index=7)(eye, logits, target),
        lambda target: torch.stack(liger.LigerFusedCETVDLoss(7)(logits, other, target)),
        lambda target: liger.LigerJSD(0.5, 7)(
            logits.log_softmax(-1), other.log_softmax(-1), target
        ),
        lambda target: liger.LigerTVDLoss("sum", 7)(logits.softmax(-1), other.softmax(-1), target),
    )
    for call in calls:
        assert torch.equal(call(narrow), call(wide))
    assert_refused(lambda: calls[0](wide.float()), "target", "f32", "i64")
    assert_refused(lambda: calls[0](wide > 3), "target", "bool")


def distributions(device, dtype, log):
    rows = rows_of(device, torch.float32)
    return (rows.log_softmax(-1) if log else rows.softmax(-1)).to(dtype)


LOSSES = {
    "kl_div": (lambda x, y: by_name.liger_kl_div(x, y, log_target=True), True),
    "jsd": (lambda x, y: by_name.liger_jsd(x, y), True),
    "tvd": (lambda x, y: by_name.liger_tvd(x, y), False),
    "ce_tvd": (
        lambda x, y: sum(liger.LigerFusedCETVDLoss()(x, y, labels_of(x.device))),
        True,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "of_student, of_teacher",
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float16),
    ],
)
def test_a_student_and_its_teacher_may_have_two_dtypes(device, name, of_student, of_teacher):
    call, log = LOSSES[name]
    student = distributions(device, of_student, log).requires_grad_()
    teacher = distributions(device, of_teacher, log).flip(0)
    wide = student.detach().float().requires_grad_()
    mine, exact = call(student, teacher), call(wide, teacher.float())
    assert mine.dtype == (of_student if name == "jsd" else torch.float32)
    assert torch.equal(mine, exact.to(mine.dtype))
    (grad,) = gradient(mine, student)
    assert grad.dtype == of_student
    assert torch.equal(grad, gradient(exact, wide)[0].to(of_student))


def test_a_teacher_that_wants_a_gradient_is_refused_in_another_dtype_too(device):
    student = distributions(device, torch.bfloat16, True)
    teacher = distributions(device, torch.float32, True).requires_grad_()
    for name, (call, _) in LOSSES.items():
        assert_refused(lambda call=call: call(student, teacher), name, "detach")


def test_they_compile_without_a_break(device):
    logits, target = rows_of(device, torch.bfloat16), labels_of(device).int()
    module = liger.LigerCrossEntropyLoss(reduction="none", return_token_accuracy=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        vars(compiled(logits, target)).values(), vars(module(logits, target)).values(), strict=True
    ):
        assert one is other is None or torch.equal(one, other)
