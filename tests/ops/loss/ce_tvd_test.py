"""Cross entropy with total variation distance: sizes, labels, both gradients, against float64."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run, strided_forms
from liger_jit.functional import ce_tvd
from liger_jit.transformers import LigerFusedCETVDLoss
from loss_reference import labels


def reference(student, teacher, target):
    ce = torch_functional.cross_entropy(student, target, reduction="none")
    tvd = (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2
    return ce, tvd * (target != -100)


def case(rows, width, device, dtype=torch.float32):
    made = [(2 * torch.randn(rows, width, device=device)).to(dtype) for _ in range(2)]
    return {"student": made[0], "teacher": made[1], "target": labels(rows, width, device)}


def check(inputs, eager=None):
    return assert_as_exact_as_eager(ce_tvd, reference, inputs, ["student"], eager=eager)


# 1: both losses are zero; 2048: the first that is held on the chip.
@pytest.mark.parametrize("width", [1, 7, 129, 1000, 1023, 1025, 2048, 8193, 32768])
def test_every_width_is_as_exact_as_eager(device, width):
    check(case(12, width, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        result = check(case(33, 129, device, dtype))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert result["output 0"].dtype == result["output 1"].dtype == wide


@pytest.mark.parametrize("which", [0, 1])
def test_each_loss_alone_has_its_gradient(device, which):
    inputs = case(8, 200, device)
    found = run(lambda **one: ce_tvd(**one)[which], inputs, ["student"])
    wanted = run(lambda **one: reference(**one)[which], inputs, ["student"])
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_teacher_that_is_the_student_is_at_no_distance(device):
    inputs = case(5, 70, device)
    student = inputs["student"].requires_grad_()
    _, tvd = ce_tvd(student, student.detach(), inputs["target"])
    (gradient,) = torch.autograd.grad(tvd.sum(), student)
    assert (tvd == 0).all() and (gradient == 0).all()


def test_rows_that_are_ignored_are_not_read(device):
    inputs = case(6, 40, device)
    student, target = inputs["student"].clone(), torch.full((6,), 7, device=device)
    target[2:4] = -100
    student[2:4] = float("nan")
    student.requires_grad_()
    ce, tvd = ce_tvd(student, inputs["teacher"], target)
    (ce.sum() + 3 * tvd.sum()).backward()
    assert (ce[2:4] == 0).all() and (tvd[2:4] == 0).all() and (student.grad[2:4] == 0).all()
    assert student.grad.isfinite().all() and student.grad[0].ne(0).all()


def test_masked_logits_have_no_probability_and_no_gradient(device):
    inputs = case(3, 30, device)
    student = inputs["student"].clone()
    student[:, 10:20] = float("-inf")
    student.requires_grad_()
    ce, tvd = ce_tvd(student, inputs["teacher"], torch.tensor([1, 2, 29], device=device))
    (ce + tvd).sum().backward()
    assert ce.isfinite().all() and tvd.isfinite().all()
    assert (student.grad[:, 10:20] == 0).all() and student.grad.isfinite().all()


def test_inputs_may_lie_anywhere_and_leading_dims_are_rows(device):
    inputs = case(6, 129, device)
    wanted = run(ce_tvd, inputs, ["student"])
    for name, form in strided_forms(inputs["student"]):
        found = run(ce_tvd, {**inputs, "student": form}, ["student"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
    shaped = [one.view(2, 3, *one.shape[1:]) for one in inputs.values()]
    ce, tvd = ce_tvd(*shaped)
    assert torch.equal(ce.flatten(), wanted["output 0"]) and tvd.shape == (2, 3)


def test_the_module_is_the_function(device):
    inputs = case(6, 40, device)
    for mine, wanted in zip(LigerFusedCETVDLoss()(*inputs.values()), ce_tvd(**inputs), strict=True):
        assert torch.equal(mine, wanted)
    inputs["target"] = inputs["target"].clamp(min=0)
    ce, _ = LigerFusedCETVDLoss(0)(*inputs.values())
    assert torch.equal(ce == 0, inputs["target"] == 0)


def test_refusals(device):
    x = torch.randn(3, 4, device=device)
    y = torch.zeros(3, dtype=torch.int64, device=device)
    assert_refused(lambda: ce_tvd(x, x[:2], y), "ce_tvd", "teacher", "shape")
    assert_refused(lambda: ce_tvd(x, x, y[:2]), "ce_tvd", "target", "one label a row")
    with pytest.raises(NotImplementedError, match="teacher.*detach"):
        ce_tvd(x, x.clone().requires_grad_(), y)
    if device == "cpu":
        assert_refused(lambda: ce_tvd(x, x, y + 4), "ce_tvd", "target", "4")
