"""Kullback-Leibler divergence: its options, sizes and limits, against float64 and torch."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import HALVES, assert_as_exact_as_eager, assert_refused, dtypes_of, run, strided_forms
from divergence_reference import distributions, kl_div_reference
from liger_jit.functional import kl_div
from liger_jit.transformers import LigerKLDIVLoss
from liger_jit.transformers.functional import liger_kl_div

REDUCTIONS = ["none", "sum", "mean", "batchmean"]


def case(rows, width, device, dtype=torch.float32, log_target=False):
    x, _ = distributions(rows, width, device, dtype, log=True)
    t, _ = distributions(rows, width, device, dtype, log=log_target)
    return {"input": x, "target": t}


def check(inputs, **options):
    return assert_as_exact_as_eager(
        lambda **tensors: kl_div(**tensors, **options),
        lambda **tensors: kl_div_reference(**tensors, **options),
        inputs,
        ["input"],
        # A gradient in half precision that a factor comes to later is rounded twice.
        "ones" if inputs["input"].dtype in HALVES else "random",
    )


# 8191 to 8193 and 20000: rows of one piece and of more.
@pytest.mark.parametrize("width", [1, 7, 129, 1000, 1023, 1025, 8191, 8192, 8193, 20000])
@pytest.mark.parametrize("reduction", ["none", "batchmean"])
def test_every_width_is_as_exact_as_eager(device, width, reduction):
    check(case(9, width, device), reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("log_target", [False, True])
def test_every_option_in_every_dtype_is_as_exact_as_eager(device, reduction, log_target):
    for dtype in dtypes_of(device):
        inputs = case(17, 193, device, dtype, log_target)
        result = check(inputs, reduction=reduction, log_target=log_target)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert result["output 0"].dtype == wide


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 2, 3, 5)])
@pytest.mark.filterwarnings("ignore:reduction")
def test_torch_gives_the_same_for_every_shape(device, reduction, log_target, shape):
    x = torch.randn(shape, device=device).log_softmax(-1).requires_grad_()
    t = torch.randn(shape, device=device).softmax(-1)
    t = t.log() if log_target else t
    wanted = torch_functional.kl_div(x, t, reduction=reduction, log_target=log_target)
    found = kl_div(x, t, reduction, log_target)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(wanted.square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], gradient)


def test_a_probability_of_zero_adds_nothing(device):
    inf = float("inf")
    x = torch.tensor([[-inf, -1.0, -2.0]], device=device, requires_grad=True)
    t = torch.tensor([[0.0, 0.75, 0.25]], device=device)
    rest = torch_functional.kl_div(x[:, 1:], t[:, 1:], reduction="sum")
    for eps in (1e-10, 0.0):
        torch.testing.assert_close(kl_div(x, t, "sum", eps=eps), rest)
    loss = kl_div(x, t.log(), "sum", log_target=True)
    torch.testing.assert_close(loss, rest)
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, -t)


def test_what_is_no_number_and_what_is_infinite_shows_as_in_torch(device):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[nan, -inf, -1.0, nan]], device=device)
    t = torch.tensor([[0.5, 0.5, nan, 0.0]], device=device)
    found, wanted = kl_div(x, t, "none"), torch_functional.kl_div(x, t, reduction="none")
    assert torch.equal(found.isnan(), wanted.isnan())
    assert found[0, 1] == wanted[0, 1] == inf
    assert kl_div(x, t.log(), "none", log_target=True).isnan().tolist() == found.isnan().tolist()


def test_eps_is_the_least_probability_whose_logarithm_is_taken(device):
    x = torch.full((1, 2), -1.0, device=device)
    t = torch.tensor([[1e-12, 0.5]], device=device)
    torch.testing.assert_close(
        kl_div(x, t, "none", eps=1e-3), kl_div_reference(x, t, "none", eps=1e-3)
    )


def test_inputs_may_lie_anywhere(device):
    inputs = case(6, 129, device)
    wanted = run(kl_div, inputs, ["input"])
    for name, form in strided_forms(inputs["target"]):
        found = run(kl_div, {**inputs, "target": form}, ["input"])
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_float16_gradients_of_a_mean_survive_a_loss_scaler(device):
    inputs = case(64, 512, device, torch.float16)
    x = inputs["input"].requires_grad_()
    (kl_div(x, inputs["target"], "batchmean") * 2.0**12).backward()
    wanted = -inputs["target"].float() / 64 * 2.0**12
    torch.testing.assert_close(x.grad.float(), wanted, rtol=2e-3, atol=1e-4)


def test_the_module_and_ligers_function_are_the_function(device):
    inputs = case(5, 65, device)
    x, t = inputs["input"], inputs["target"]
    assert torch.equal(LigerKLDIVLoss(reduction="batchmean")(x, t), kl_div(x, t, "batchmean"))
    assert torch.equal(
        LigerKLDIVLoss(1e-3, log_target=True)(x, t), kl_div(x, t, "mean", True, 1e-3)
    )
    assert torch.equal(liger_kl_div(x, t), kl_div(x, t))
    assert torch.equal(liger_kl_div(x, t, eps=0.1), kl_div(x, t, eps=0.1))


def test_nothing_gives_nothing(device):
    x = torch.empty(0, 8, device=device)
    assert kl_div(x, x, "sum") == 0
    assert kl_div(x, x, "none").shape == (0, 8)


def test_refusals(device):
    x = torch.randn(3, 4, device=device)
    assert_refused(lambda: kl_div(x, x, "max"), "kl_div", "reduction", "'max'", "batchmean")
    assert_refused(lambda: kl_div(x, x, eps=-1.0), "kl_div", "eps", "-1")
    assert_refused(lambda: kl_div(x, x[:2]), "kl_div", "target", r"\(2, 4\)", r"\(3, 4\)")
    assert_refused(lambda: kl_div(x, x.half()), "kl_div", "target", "f16", "f32")
    with pytest.raises(NotImplementedError, match="target.*detach"):
        kl_div(x, x.clone().requires_grad_())
