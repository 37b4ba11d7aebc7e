"""Multi-token attention against masked softmax, convolution and mask in float64."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, relative_error
from liger_jit.functional import multi_token_attention
from liger_jit.transformers import LigerMultiTokenAttention
from torch.nn import functional as F

WRT = ("scores", "weight", "bias")


def beyond(x):
    return torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1)


def reference(scores, weight, bias=None, **options):
    p = scores.masked_fill(beyond(scores), float("-inf")).softmax(-1)
    out = F.conv2d(p, weight, bias, **options)
    return out.masked_fill(beyond(out), 0)


def tensors(channels, made, length, size, dtype, device, groups=1, batch=2):
    return {
        "scores": torch.randn(batch, channels, length, length, device=device).to(dtype),
        "weight": torch.randn(made, channels // groups, size, size, device=device).to(dtype),
        "bias": torch.randn(made, device=device).to(dtype),
    }


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(multi_token_attention, **options),
        partial(reference, **options),
        inputs,
        WRT,
        slack_of_products=1e-3
        if inputs["scores"].dtype in (torch.bfloat16, torch.float16)
        else 1e-6,
    )


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(4, 4, 33, 3, dtype, device), padding=1)


# 5: no pack is whole; 64: all are; 1025: rows of more packs than a team has lanes
@pytest.mark.parametrize("length", [5, 64, 1025])
def test_every_length_is_right(device, length):
    check(tensors(2, 2, length, 3, torch.float32, device, batch=1), padding=1)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 0},
        {"padding": 2, "dilation": 2},
        {"stride": 2, "padding": 1},
        {"groups": 2, "padding": 1},
        {"groups": 4, "padding": 1},
    ],
)
def test_every_convolution_is_right(device, options):
    check(tensors(4, 8, 21, 3, torch.float32, device, options.get("groups", 1)), **options)


# 16 bits and channels in whole packs: the library convolves with the channels last
@pytest.mark.parametrize(
    "channels, made, length, options",
    [
        (8, 8, 33, {"padding": 1}),
        (16, 24, 40, {"padding": 0}),
        (16, 32, 21, {"groups": 2, "padding": 1}),
        (8, 16, 64, {"stride": 2, "padding": 1}),
        (16, 8, 1, {"padding": 1}),
    ],
)
def test_many_channels_of_16_bits_are_right(device, channels, made, length, options):
    dtype = torch.bfloat16
    inputs = tensors(channels, made, length, 3, dtype, device, options.get("groups", 1))
    check(inputs, **options)


# channels of which the library convolves one way, and the other
@pytest.mark.parametrize("channels, dtype", [(2, torch.float32), (8, torch.bfloat16)])
def test_what_lies_beyond_the_diagonal_counts_for_nothing(device, channels, dtype):
    inputs = tensors(channels, channels, 19, 3, dtype, device)
    before = multi_token_attention(**inputs, padding=1)
    inputs["scores"][..., beyond(inputs["scores"])] = float("nan")
    leaf = inputs["scores"].requires_grad_()
    after = multi_token_attention(**inputs, padding=1)
    assert torch.equal(before, after.detach())
    assert (after.detach()[..., beyond(after)] == 0).all()
    upstream = torch.randn_like(after)
    clean = torch.autograd.grad(after, leaf, upstream, retain_graph=True)[0]
    upstream[..., beyond(upstream)] = float("nan")
    assert torch.equal(torch.autograd.grad(after, leaf, upstream)[0], clean)
    assert (clean[..., beyond(clean)] == 0).all()


def test_scores_far_beyond_the_range_of_exp_are_fine(device):
    inputs = tensors(2, 2, 40, 3, torch.float32, device)
    inputs["scores"] = inputs["scores"] * 1e4
    check(inputs, padding=1)


def test_what_is_not_allowed_is_refused(device):
    inputs = tensors(4, 4, 9, 3, torch.float32, device)

    def refused(*words, **changes):
        call = {**inputs, **changes}
        assert_refused(lambda: multi_token_attention(**call), "multi_token_attention", *words)

    refused("scores", r"N, N", scores=inputs["scores"][..., :5].contiguous())
    refused("weight", r"K, K", weight=inputs["weight"][..., :2].contiguous())
    refused("weight", "group", weight=inputs["weight"][:, :2].contiguous())
    refused("groups", "is 3", groups=3)
    refused("stride", "is 0", stride=0)
    refused("padding", "is -1", padding=-1)
    refused("bias", r"\[4\]", bias=inputs["bias"][:2])
    refused("weight", "17 columns", dilation=8)
    refused("dtype", weight=inputs["weight"].bfloat16())


def test_the_module_is_the_function_of_its_parameters(device):
    torch.manual_seed(0)
    module = LigerMultiTokenAttention(4, 6, 3, padding=(1, 1), groups=2).to(device)
    scores = torch.randn(1, 4, 12, 12, device=device)
    assert module.weight.shape == (6, 2, 3, 3) and not module.bias.any()
    expected = reference(scores, module.weight, module.bias, padding=1, groups=2)
    torch.testing.assert_close(module(scores), expected)
    assert LigerMultiTokenAttention(4, 4, 3, bias=False).bias is None
    uneven = LigerMultiTokenAttention(4, 4, 3, stride=(1, 2))
    assert_refused(lambda: uneven.to(device)(scores), "stride", r"\(1, 2\)")


@pytest.mark.parametrize("sparse", [False, True])
def test_many_channels_of_16_bits_are_those_of_float32_but_for_rounding(device, sparse):
    inputs = tensors(8, 16, 37, 3, torch.bfloat16, device)
    upstream = torch.randn(2, 16, 37, 37, device=device).bfloat16()
    made = {}
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [inputs[name].to(dtype).requires_grad_() for name in WRT]
        out = multi_token_attention(*leaves, padding=1, sparse=sparse)
        made[dtype] = [out, *torch.autograd.grad(out, leaves, upstream.to(dtype))]
    for mine, wanted in zip(*made.values(), strict=True):
        assert relative_error(mine, wanted) < 1e-2
