"""RMSNorm and the residual addition after it: the numbers of the two steps, and a gradient of the
residual that nobody computes or copies."""

from functools import partial

import pytest
import torch
from accuracy import (
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit import transformers as liger
from liger_jit.functional import rms_norm, rms_norm_add

WRT = ("x", "residual", "weight")


def reference(x, residual, weight=None, eps=1e-6, offset=0.0, casting_mode="llama"):
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = x.to(wide)
    normed = normed * torch.rsqrt(normed.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return residual + normed.to(x.dtype)
    if casting_mode == "llama":
        return residual + (offset + weight) * normed.to(x.dtype)
    return residual + (normed * (offset + weight.to(wide))).to(x.dtype)


def check(inputs, wrt=WRT, **options):
    return assert_as_exact_as_eager(
        partial(rms_norm_add, **options), partial(reference, **options), inputs, wrt
    )


def tensors(rows, size, dtype, device):
    return {
        "x": torch.randn(rows, size, device=device).to(dtype),
        "residual": (3 * torch.randn(rows, size, device=device)).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
    }


# 7: no vector load fits; 1023, 1025: a ragged block; 4096: the usual; 20000: longer than any block.
@pytest.mark.parametrize("size", [1, 7, 1023, 1025, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(9, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(33, 129, dtype, device))
        check({name: tensors(33, 129, dtype, device)[name] for name in WRT[:2]}, WRT[:2])


@pytest.mark.parametrize("casting_mode", ["gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode):
    for dtype in HALVES:
        check(tensors(17, 64, dtype, device), offset=1.0, casting_mode=casting_mode, eps=1e-3)


@pytest.mark.parametrize("size", [129, 4096, 20000])
def test_the_sum_has_the_bits_of_two_separate_steps(device, size):
    for dtype in dtypes_of(device):
        x, residual, weight = tensors(16, size, dtype, device).values()
        for options in ({}, {"offset": 1.0, "casting_mode": "gemma", "eps": 1e-3}):
            wanted = residual + rms_norm(x, weight, **options)
            assert torch.equal(rms_norm_add(x, residual, weight, **options), wanted)


def test_gradients_have_the_bits_of_two_separate_steps(device):
    inputs = tensors(16, 129, torch.bfloat16, device)
    grads = [torch.randn(16, 129, device=device).bfloat16()]
    mine = run(rms_norm_add, inputs, WRT, grads)
    steps = run(lambda x, residual, weight: residual + rms_norm(x, weight), inputs, WRT, grads)
    for name, value in steps.items():
        assert torch.equal(mine[name], value), name


def test_the_gradient_of_the_residual_is_the_one_that_arrives(device):
    x, residual, weight = tensors(9, 64, torch.bfloat16, device).values()
    residual.requires_grad_()
    for needs in (False, True):  # with and without a backward of the norm
        x.requires_grad_(needs)
        arrives = torch.randn_like(residual)
        y = rms_norm_add(x, residual, weight)
        inputs = [residual, x] if needs else [residual]
        assert torch.autograd.grad(y, inputs, arrives)[0].data_ptr() == arrives.data_ptr()


def test_gradients_kept_apart_do_not_share_memory(device):
    # Optimisers and hooks write into gradients in place.
    x, residual, weight = tensors(4, 64, torch.float32, device).values()
    x.requires_grad_(), residual.requires_grad_()
    middle = residual * 1
    y = rms_norm_add(x, middle, weight)
    arrives = torch.ones_like(y)
    y.backward(arrives)
    residual.grad.zero_()
    assert torch.equal(arrives, torch.ones_like(y))


def test_a_residual_that_is_the_input_of_its_block_adds_up(device):
    """As in a model: the residual is also what the block's output was made of."""
    x, residual, weight = tensors(9, 64, torch.float32, device).values()

    def layer(norm_add, residual, weight):
        for _ in range(3):
            residual = norm_add(residual.sin(), residual, weight)
        return residual

    assert_as_exact_as_eager(
        partial(layer, rms_norm_add),
        partial(layer, reference),
        {"residual": residual, "weight": weight},
        ("residual", "weight"),
    )


@pytest.mark.parametrize("wrt", [("x",), ("residual",), ("weight",), ("residual", "weight")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(rms_norm_add, inputs, WRT)
    result = run(rms_norm_add, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_the_residual_may_be_differentiated_twice(device):
    """The node knows that derivative: y grows as its residual does."""
    x, residual, weight = tensors(
        5, 16, torch.float64 if device == "cpu" else torch.float32, device
    ).values()
    residual.requires_grad_()
    y = rms_norm_add(x, residual, weight)
    (first,) = torch.autograd.grad(y.square().sum(), residual, create_graph=True)
    assert torch.equal(first, 2 * y)
    (second,) = torch.autograd.grad(first.sum(), residual)
    assert torch.equal(second, torch.full_like(second, 2.0))


def test_a_weight_of_another_dtype_promotes_where_that_is_asked(device):
    x, residual, weight = tensors(9, 64, torch.bfloat16, device).values()
    weight = weight.float()
    y = rms_norm_add(x, residual, weight, promote=True)
    assert y.dtype == torch.float32
    assert torch.equal(y, residual + rms_norm(x, weight, promote=True))
    assert rms_norm_add(x, residual, weight).dtype == torch.bfloat16
    residual.requires_grad_()
    (gradient,) = torch.autograd.grad(
        rms_norm_add(x, residual, weight, promote=True).sum(), residual
    )
    assert gradient.dtype == torch.bfloat16


def test_views_no_rows_and_more_dimensions_agree_with_the_plain_case(device):
    inputs = tensors(16, 64, torch.bfloat16, device)
    wanted = run(rms_norm_add, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["residual"])[::-1], strict=True)
    for (name, x), (other, residual) in views:
        result = run(rms_norm_add, {**inputs, "x": x, "residual": residual}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    folded = {**inputs, **{name: inputs[name].view(2, 8, 64) for name in WRT[:2]}}
    result = run(rms_norm_add, folded, WRT)
    assert torch.equal(result["output 0"].view(16, 64), wanted["output 0"])
    assert torch.equal(result["gradient of x"].view(16, 64), wanted["gradient of x"])
    empty = {**inputs, **{name: inputs[name][:0] for name in WRT[:2]}}
    result = run(rms_norm_add, empty, WRT)
    assert result["output 0"].shape == (0, 64)
    assert torch.equal(result["gradient of weight"], torch.zeros_like(inputs["weight"]))


def test_special_values_give_what_eager_gives(device):
    inputs = tensors(6, 64, torch.bfloat16, device)
    inputs["x"][0, 3] = float("inf")
    inputs["residual"][1, 5] = float("nan")
    inputs["x"][2] = 0.0
    inputs["x"][3] = torch.finfo(torch.bfloat16).max
    inputs["residual"][4, 7] = float("-inf")
    assert_same_specials(rms_norm_add(**inputs), reference(**inputs))


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(9, 64, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(rms_norm_add, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_the_module_is_the_norm_of_its_name_and_the_sum(device):
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    mine, theirs = liger.LigerRMSNormAdd(32, 1e-5).to(device), Olmo2RMSNorm(32, 1e-5).to(device)
    x, residual = torch.randn(2, 2, 5, 32, device=device)
    with torch.no_grad():
        theirs.weight.normal_()
    mine.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(mine(x, residual), residual + theirs(x))


def test_errors_name_the_argument_and_its_value(device):
    x, residual, weight = tensors(4, 64, torch.float32, device).values()
    op = "rms_norm_add"
    assert_refused(lambda: rms_norm_add(x, residual[:3], weight), op, "residual", "3", "4")
    assert_refused(lambda: rms_norm_add(x, residual.half(), weight), op, "residual", "16")
    assert_refused(lambda: rms_norm_add(x, residual, weight[:8]), op, "weight", "8", "64")
    assert_refused(lambda: rms_norm_add(x, residual, weight, -1.0), op, "eps", "-1")
    assert_refused(lambda: rms_norm_add(x, residual, casting_mode=3), op, "casting_mode", "3")
