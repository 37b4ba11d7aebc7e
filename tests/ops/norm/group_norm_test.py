"""GroupNorm against float64: dtypes, groups and sizes of every kind, layouts, values far from zero.

Sizes stand for how a group is dealt out: channels of no whole vector, groups that one block holds,
that a cluster holds, and that nobody holds.
"""

import pytest
import torch
from accuracy import (
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
)
from liger_jit.functional import group_norm
from liger_jit.transformers import LigerGroupNorm
from liger_jit.transformers.functional import liger_group_norm
from torch.nn import functional as F

WRT = ("x", "weight", "bias")


def of(groups):
    def mine(x, weight=None, bias=None):
        return group_norm(x, groups, weight, bias)

    def reference(x, weight=None, bias=None):
        if weight is None and bias is not None:  # torch 2.11 cannot
            weight = torch.ones_like(bias)
        return F.group_norm(x, groups, weight, bias, 1e-6)

    return mine, reference


def tensors(shape, dtype, device, shift=0.0):
    return {
        "x": (torch.randn(shape, device=device) + shift).to(dtype),
        "weight": (1 + 0.3 * torch.randn(shape[1], device=device)).to(dtype),
        "bias": (0.3 * torch.randn(shape[1], device=device)).to(dtype),
    }


def check(shape, groups, dtype, device, wrt=WRT, **options):
    return assert_as_exact_as_eager(*of(groups), tensors(shape, dtype, device, **options), wrt)


@pytest.mark.parametrize(
    "shape, groups",
    [
        ((3, 6), 2),
        ((2, 6, 1), 3),
        ((2, 12, 7), 4),
        ((2, 64, 7, 7), 8),
        ((2, 6, 1023), 2),
        ((2, 6, 1025), 1),
        ((2, 6, 1025), 6),
        ((2, 3, 4, 5, 6), 3),
        ((2, 32, 32, 32), 4),
        ((1, 32, 64, 64), 2),
        ((1, 10, 4096), 1),
        ((1, 8, 20000), 1),
        ((1, 4, 131072), 1),
        ((2, 2100, 3), 1),
    ],
    ids=str,
)
def test_every_shape_is_as_exact_as_eager_in_bfloat16(device, shape, groups):
    check(shape, groups, torch.bfloat16, device)


@pytest.mark.parametrize("shape", [(3, 12, 129), (2, 16, 8, 24)])
def test_every_dtype_is_as_exact_as_eager(device, shape):
    for dtype in dtypes_of(device):
        check(shape, 4, dtype, device)


def test_a_mean_far_above_the_deviation_costs_no_digits(device):
    # E[x^2] - E[x]^2 would lose every digit of the variance here.
    inputs = tensors((3, 8, 500), torch.float32, device, shift=3000.0)
    mine, reference = of(2)
    y = mine(inputs["x"])
    assert (y.view(3, 2, -1).var(-1, correction=0) - 1).abs().max() < 1e-3
    exact = {name: value.double() for name, value in inputs.items()}
    torch.testing.assert_close(mine(**inputs).double(), reference(**exact), rtol=1e-4, atol=1e-4)


def test_a_group_of_equal_values_is_the_bias(device):
    inputs = tensors((4, 6, 129), torch.float32, device)
    inputs["x"] = torch.full_like(inputs["x"], 3.5)
    y = group_norm(inputs["x"], 3, inputs["weight"], inputs["bias"])
    assert torch.equal(y, inputs["bias"].view(1, -1, 1).expand_as(y))


@pytest.mark.parametrize("given", [(), ("weight",), ("bias",)])
def test_weight_and_bias_may_be_absent(device, given):
    inputs = tensors((5, 12, 64), torch.bfloat16, device)
    inputs = {name: inputs[name] for name in ("x", *given)}
    assert_as_exact_as_eager(*of(3), inputs, tuple(inputs))


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("bias",), ("weight", "bias")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors((5, 12, 65), torch.float32, device)
    grad_output = [torch.randn_like(inputs["x"])]
    every = run(of(3)[0], inputs, WRT, grad_output)
    some = run(of(3)[0], inputs, wrt, grad_output)
    assert some.keys() == {"output 0", *(f"gradient of {name}" for name in wrt)}
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], rtol=1e-6, atol=1e-6)


def test_weights_of_another_dtype_give_the_result_of_wide_weights(device):
    for dtype in HALVES:
        inputs = tensors((2, 8, 64), dtype, device)
        wide = {n: v if n == "x" else v.float() for n, v in inputs.items()}
        assert torch.equal(of(2)[0](**wide), of(2)[0](**inputs))
        assert run(of(2)[0], wide, WRT)["gradient of weight"].dtype == torch.float32


def forms(x):
    """(name, view) of tensors with x's values [N, C, H, W] that are not simply contiguous."""
    odd = x.new_zeros(x.numel() + 1)
    odd[1:] = x.flatten()
    wide = x.new_zeros(x.shape[0], x.shape[1] + 5, *x.shape[2:])
    wide[:, 3:-2] = x
    return [
        ("channels last", x.contiguous(memory_format=torch.channels_last)),
        ("one element past alignment", odd[1:].view(x.shape)),
        ("some of the channels", wide[:, 3:-2]),
        ("transposed", x.transpose(-1, -2).contiguous().transpose(-1, -2)),
    ]


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors((2, 8, 16, 24), torch.bfloat16, device)
    grad_output = torch.randn_like(inputs["x"])
    plain = run(of(2)[0], inputs, WRT, [grad_output])
    for (name, view), (_, incoming) in zip(forms(inputs["x"]), forms(grad_output), strict=True):
        seen = run(of(2)[0], {**inputs, "x": view}, WRT, [incoming])
        for key, value in plain.items():
            assert torch.equal(seen[key], value), f"{name}: {key}"


@pytest.mark.parametrize("shape", [(0, 6, 64), (3, 6, 0)])
def test_no_elements_give_no_output_and_zero_gradients(device, shape):
    found = run(of(2)[0], tensors(shape, torch.float32, device), WRT)
    assert found["output 0"].shape == found["gradient of x"].shape == shape
    assert not found["gradient of weight"].any() and not found["gradient of bias"].any()


def test_special_values_give_what_eager_gives(device):
    inputs = tensors((4, 6, 64), torch.float32, device)
    inputs["x"][0, 1, 3] = float("inf")
    inputs["x"][1, 4, 5] = float("nan")
    inputs["x"][2] *= 1e-30
    mine, reference = of(3)
    assert_same_specials(mine(**inputs), reference(**inputs))


def test_the_module_matches_that_of_torch(device):
    mine = LigerGroupNorm(12, 3, 1e-5, bias=True).to(device)
    theirs = torch.nn.GroupNorm(3, 12, 1e-5).to(device)
    assert torch.equal(mine.weight, theirs.weight) and torch.equal(mine.bias, theirs.bias)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, 5, 7, device=device)
    torch.testing.assert_close(mine(x), theirs(x))
    assert torch.equal(mine(x), liger_group_norm(x, mine.weight, mine.bias, 12, 3, 1e-5))
    for module in (mine, theirs):
        module(x).square().sum().backward()
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(theirs.named_parameters())[name].grad)
    without = LigerGroupNorm(12, 3)
    assert [name for name, p in without.named_parameters() if p.requires_grad] == ["weight"]


def test_errors_name_the_argument_and_its_value(device):
    x, ones = torch.randn(2, 6, 8, device=device), torch.ones(5, device=device)
    assert_refused(lambda: group_norm(x, 4), "group_norm", "num_groups", "4", "6")
    assert_refused(lambda: group_norm(x, 0), "group_norm", "num_groups", "0")
    assert_refused(lambda: group_norm(x, 2, ones), "group_norm", "weight", "5", "6")
    assert_refused(lambda: group_norm(x, 2, None, ones), "group_norm", "bias", "5", "6")
    assert_refused(lambda: group_norm(x[0, 0], 1), "group_norm", "x", r"\[8\]", "batch")
    assert_refused(lambda: group_norm(x, 2, eps=-1.0), "group_norm", "eps", "-1")
    assert_refused(lambda: group_norm(x.int(), 2), "group_norm", "x", "i32")
    assert_refused(lambda: liger_group_norm(x, None, None, 8, 2, 1e-6), "num_channels=8", "6")
    assert_refused(lambda: LigerGroupNorm(6, 4), "LigerGroupNorm", "num_groups=4", "6")
