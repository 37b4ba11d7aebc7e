"""Attention over depth: against float64 over dtypes, depths, sizes and extreme values."""

import pytest
import torch
from accuracy import HALVES, assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import attn_res
from liger_jit.transformers import LigerAttnRes
from liger_jit.transformers.functional import liger_attn_res

WRT = ("v", "w_query", "w_norm")


def reference(v, w_query, w_norm, eps=1e-6):
    wide = v.to(torch.promote_types(v.dtype, torch.float32))
    key = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * w_norm.to(wide.dtype)
    score = torch.einsum("d,n...d->n...", w_query.to(wide.dtype), key)
    return torch.einsum("n...,n...d->...d", score.softmax(0), wide).to(v.dtype)


def tensors(depth, tokens, size, dtype, device, weight_dtype=None):
    return {
        "v": torch.randn(depth, tokens, size, device=device).to(dtype),
        "w_query": (torch.randn(size, device=device) * 2 * size**-0.5).to(weight_dtype or dtype),
        "w_norm": (1 + 0.3 * torch.randn(size, device=device)).to(weight_dtype or dtype),
    }


def check(inputs, **options):
    # Scores are sums in another order than eager's, and the softmax makes them a factor.
    products = 0.0 if inputs["v"].dtype == torch.float64 else 2e-7
    assert_as_exact_as_eager(
        lambda **all_: attn_res(**all_, **options),
        lambda **all_: reference(**all_, **options),
        inputs,
        WRT,
        slack_of_products=products,
    )


# 1: one number a state; 1023, 1025: no vector load fits; 4096: the usual; 20000: longer than what
# a block holds. 1: the softmax of one score; 9: two uneven chunks; 40: more than one reading holds.
@pytest.mark.parametrize("size", [1, 8, 1023, 1025, 4096, 20000])
@pytest.mark.parametrize("depth", [1, 8, 9])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, depth, size):
    check(tensors(depth, 5, size, torch.bfloat16, device))


@pytest.mark.parametrize("depth", [3, 16, 40])
def test_every_dtype_is_as_exact_as_eager(device, depth):
    for dtype in dtypes_of(device):
        check(tensors(depth, 33, 129, dtype, device))


def test_weights_may_have_a_dtype_of_their_own(device):
    for dtype in HALVES:
        check(tensors(4, 17, 64, dtype, device, torch.float32), eps=1e-2)


def test_many_tokens_share_the_sums_of_the_weights_gradients(device):
    check(tensors(3, 1025, 72, torch.float32, device))


def test_scores_far_apart_choose_one_state(device):
    inputs = tensors(12, 7, 256, torch.float32, device)
    inputs["w_query"] *= 1e4
    y = attn_res(**inputs)
    assert torch.isfinite(y).all()
    wanted = reference(**{name: value.double() for name, value in inputs.items()})
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    chosen = (y.double() - inputs["v"].double()).abs().sum(-1).min(0).values
    assert (chosen < 1e-3).all()


def test_states_that_are_all_zero_or_huge_have_finite_results(device):
    inputs = tensors(4, 6, 64, torch.float32, device)
    inputs["v"][1] = 0.0
    inputs["v"][:, 2] = 0.0
    inputs["v"][:, 3] *= 1e15
    result = run(attn_res, inputs, WRT)
    truth = run(reference, {name: value.double() for name, value in inputs.items()}, WRT)
    for name, value in truth.items():
        assert result[name].isfinite().all(), name
        torch.testing.assert_close(result[name].double(), value, rtol=1e-4, atol=1e-4)


def test_a_state_that_is_not_a_number_spoils_its_own_token_alone(device):
    inputs = tensors(4, 6, 64, torch.float32, device)
    clean = attn_res(**inputs)
    inputs["v"][2, 3, 5] = float("nan")
    y = attn_res(**inputs)
    assert y[3].isnan().all()
    assert torch.equal(y[:3], clean[:3]) and torch.equal(y[4:], clean[4:])


@pytest.mark.parametrize("wrt", [("v",), ("w_query",), ("w_norm",), ("v", "w_norm")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(5, 9, 64, torch.float32, device)
    every = run(attn_res, inputs, WRT)
    result = run(attn_res, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_shapes_and_layouts_agree_with_the_plain_case(device):
    inputs = tensors(5, 12, 64, torch.bfloat16, device)
    wanted = run(attn_res, inputs, WRT)
    v = inputs["v"]
    forms = {
        "more dimensions": v.view(5, 3, 4, 64),
        "tokens outermost": v.transpose(0, 1).contiguous().transpose(0, 1),
        "columns outermost": v.transpose(0, 2).contiguous().transpose(0, 2),
        "a slice of wider states": torch.cat((v, v), -1)[..., :64],
        "states of a longer stack": torch.cat((v, v))[:5],
    }
    for name, form in forms.items():
        result = run(attn_res, {**inputs, "v": form}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key].reshape(value.shape), value), f"{key} of {name}"
    assert attn_res(**{**inputs, "v": v.view(5, 3, 4, 64)}).shape == (3, 4, 64)
    assert attn_res(**{**inputs, "v": v[:, 0]}).shape == (64,)
    none = run(attn_res, {**inputs, "v": v[:, :0]}, WRT)
    assert none["output 0"].shape == (0, 64)
    assert torch.equal(none["gradient of w_query"], torch.zeros_like(inputs["w_query"]))


def test_the_module_takes_a_stack_or_a_list(device):
    module = LigerAttnRes(64, eps=1e-5).to(device)
    states = torch.randn(3, 2, 5, 64, device=device)
    wanted = reference(states, module.w_query, module.w_norm, 1e-5)
    torch.testing.assert_close(module(states), wanted)
    assert torch.equal(module(list(states)), module(states))
    torch.testing.assert_close(liger_attn_res(states, module.w_query, module.w_norm, 1e-5), wanted)
    assert torch.equal(module.w_norm, torch.ones(64, device=device))
    assert 0.01 < LigerAttnRes(4096).w_query.std() < 0.03


def test_errors_name_the_argument_and_its_value(device):
    v, w_query, w_norm = tensors(4, 6, 64, torch.float32, device).values()
    op = "attn_res"
    assert_refused(lambda: attn_res(v[0, 0], w_query, w_norm), op, r"\bv\b", "64", r"N, \.\.\., D")
    assert_refused(lambda: attn_res(v[:0], w_query, w_norm), op, r"\bv\b", "1 to 1024")
    assert_refused(lambda: attn_res(v, w_query[:8], w_norm), op, "w_query", "8", "64")
    assert_refused(lambda: attn_res(v, w_query, w_norm[None]), op, "w_norm", "1, 64", "64")
    assert_refused(lambda: attn_res(v, w_query, w_norm, -1.0), op, "eps", "-1")
    assert_refused(lambda: attn_res(v.int(), w_query, w_norm), op, r"\bv\b", "i32|int")
