"""Neighbourhood attention against dense attention with a band for a mask, in float64."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import neighborhood_attention
from liger_jit.transformers import (
    LigerFusedNeighborhoodAttention,
    LigerFusedNeighborhoodAttentionConfig,
    LigerFusedNeighborhoodAttentionLayer,
)
from liger_jit.transformers.functional import liger_fused_neighborhood_attention
from torch import nn

NAMES = ("q", "k", "v")


def reference(q, k, v, kernel_size=7, dilation=1, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    place = torch.arange(q.shape[-2], device=q.device)
    apart = place[:, None] - place
    beside = (apart.abs() <= kernel_size // 2 * dilation) & (apart % dilation == 0)
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~beside, float("-inf"))
    return scores.softmax(-1) @ v


def tensors(shape, dtype, device):
    batch, heads, tokens, size = shape
    return {
        name: torch.randn(batch, tokens, heads, size, device=device).to(dtype).transpose(1, 2)
        for name in NAMES
    }


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(neighborhood_attention, **options),
        partial(reference, **options),
        inputs,
        NAMES,
        # Scores are products, added in another order.
        slack_of_products=1e-7 if inputs["q"].dtype == torch.float32 else 0,
    )


# 1: a pack of which one counts; 6: no vector fits; 80: no power of two; 300: more than 32 packs
@pytest.mark.parametrize("size", [1, 6, 64, 80, 128, 300])
def test_every_head_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors((2, 3, 41, size), torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors((1, 2, 70, 32), dtype, device))


# 1: itself alone; a window longer than the sequence; neighbours that are far apart
@pytest.mark.parametrize("kernel_size, dilation", [(1, 1), (3, 1), (5, 4), (9, 2), (21, 3)])
@pytest.mark.parametrize("tokens", [1, 8, 37])
def test_every_window_is_right(device, kernel_size, dilation, tokens):
    inputs = tensors((1, 2, tokens, 16), torch.float32, device)
    check(inputs, kernel_size=kernel_size, dilation=dilation, scale=0.3)


def test_a_token_sees_nothing_outside_its_window(device):
    inputs = tensors((1, 1, 30, 8), torch.float32, device)
    before = neighborhood_attention(**inputs, kernel_size=5)
    inputs["k"][:, :, 20] = 100
    inputs["v"][:, :, 20] = 100
    after = neighborhood_attention(**inputs, kernel_size=5)
    changed = (before != after).any(-1)[0, 0].nonzero().flatten().tolist()
    assert changed == [18, 19, 20, 21, 22]


def test_scores_far_beyond_the_range_of_exp_are_fine(device):
    inputs = tensors((1, 2, 20, 16), torch.float32, device)
    inputs["q"] = inputs["q"] * 1e4
    check(inputs)


def test_an_infinite_neighbour_spoils_its_window_as_in_eager(device):
    inputs = tensors((1, 1, 20, 8), torch.float32, device)
    inputs["v"][0, 0, 3, 2] = float("inf")
    inputs["v"][0, 0, 9, 1] = float("nan")
    out = neighborhood_attention(**inputs, kernel_size=3)
    finite = out.isfinite().all(-1)[0, 0]
    assert finite.logical_not().nonzero().flatten().tolist() == [2, 3, 4, 8, 9, 10]


def test_gradients_are_made_for_those_that_want_one(device):
    inputs = tensors((1, 2, 20, 16), torch.float32, device)
    whole = run(neighborhood_attention, inputs, NAMES)
    for name in NAMES:
        alone = run(neighborhood_attention, inputs, (name,))
        assert torch.equal(alone[f"gradient of {name}"], whole[f"gradient of {name}"])


def test_what_is_not_allowed_is_refused(device):
    inputs = tensors((1, 2, 20, 16), torch.float32, device)

    def refused(*words, **changes):
        assert_refused(lambda: neighborhood_attention(**{**inputs, **changes}), *words)

    refused("neighborhood_attention", "kernel_size", "is 4", "odd", kernel_size=4)
    refused("kernel_size", "is -1", kernel_size=-1)
    refused("dilation", "is 0", "1 or more", dilation=0)
    refused("'k'", "shape", k=inputs["k"][:, :1])
    refused("'v'", "dtype", v=inputs["v"].bfloat16())
    refused("'q'", "4 dimensions", q=inputs["q"][0])
    large = {name: torch.randn(1, 1, 2, 1025, device=device) for name in NAMES}
    refused("'q'", "1025", "at most 1024", **large)


def test_ligers_function_is_this_one(device):
    inputs = tensors((1, 2, 20, 16), torch.float32, device)
    mine = neighborhood_attention(**inputs, kernel_size=3, dilation=2)
    assert torch.equal(liger_fused_neighborhood_attention(*inputs.values(), 3, 2), mine)


def test_the_layer_is_norm_attention_and_residual_sum(device):
    config = LigerFusedNeighborhoodAttentionConfig(hidden_size=32, num_heads=4, kernel_size=5)
    torch.manual_seed(0)
    layer = LigerFusedNeighborhoodAttentionLayer(**config.to_dict()).to(device)
    x = torch.randn(2, 19, 32, device=device, requires_grad=True)
    out = layer(x)
    attention = layer.attention

    def heads(projection, normed):
        return projection(normed).view(2, 19, 4, 8).transpose(1, 2)

    normed = layer.layer_norm(x)
    q, k, v = (heads(p, normed) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    attended = reference(q, k, v, 5).transpose(1, 2).reshape(2, 19, 32)
    expected = x + attention.out_proj(attended)
    torch.testing.assert_close(out, expected)
    mine = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_dropout_is_that_of_a_training_module(device):
    module = LigerFusedNeighborhoodAttention(16, 2, dropout=0.5).to(device)
    x = torch.randn(1, 9, 16, device=device)
    assert isinstance(module.dropout, nn.Dropout)
    assert torch.equal(module.eval()(x), module(x))
    assert not torch.equal(module.train()(x), module(x))


def test_modules_refuse_what_they_cannot_do(device):
    assert_refused(lambda: LigerFusedNeighborhoodAttention(10, 3), "hidden_size", "10", "3")
    assert_refused(lambda: LigerFusedNeighborhoodAttention(8, 2, 4), "kernel_size", "4", "odd")
    assert_refused(lambda: LigerFusedNeighborhoodAttention(8, 2, 3, 0), "dilation", "0")
    module = LigerFusedNeighborhoodAttention(8, 2).to(device)
    with pytest.raises(NotImplementedError, match="attention_mask"):
        module(torch.randn(1, 4, 8, device=device), torch.ones(1, 4))
