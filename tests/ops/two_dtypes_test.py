"""Calls with tensors of two dtypes under Liger Kernel's names: those of both in the wider."""

import pytest
import torch
from liger_jit import transformers as liger
from liger_jit.transformers import functional as by_name
from liger_jit.transformers import llama4_rope

PAIRS = [
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float16),
]
LENGTH = 48


def numbers(dtype, device, *shape):
    return torch.randn(*shape, device=device).to(dtype).requires_grad_()


def results_of(call, leaves):
    """Outputs, and their gradients for incoming ones that are not one."""
    outputs = call(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(7)
    incoming = [torch.randn(y.shape, device=y.device).bfloat16().to(y.dtype) for y in outputs]
    return outputs, torch.autograd.grad(outputs, leaves, incoming)


def check_first_decides(call, first, second):
    leaves = (first, second)
    outputs, grads = results_of(call, leaves)
    wide = [one.detach().float().requires_grad_() for one in leaves]
    exact, wanted = results_of(call, wide)
    for y, other in zip(outputs, exact, strict=True):
        assert y.dtype == first.dtype
        assert torch.equal(y, other.to(first.dtype))
    for grad, other, leaf in zip(grads, wanted, leaves, strict=True):
        assert grad.dtype == leaf.dtype
        assert torch.equal(grad, other.to(leaf.dtype))


@pytest.mark.parametrize("dtype, other", PAIRS)
def test_a_residual_may_have_another_dtype(device, dtype, other):
    x, residual = numbers(dtype, device, 5, LENGTH), numbers(other, device, 5, LENGTH)
    norm = liger.LigerFusedAddRMSNorm(LENGTH).to(device)
    check_first_decides(norm, x, residual)


@pytest.mark.parametrize("dtype, other", PAIRS)
@pytest.mark.parametrize("gated", [by_name.liger_swiglu, by_name.liger_geglu])
def test_what_is_gated_may_have_another_dtype(device, gated, dtype, other):
    check_first_decides(gated, numbers(dtype, device, 5, LENGTH), numbers(other, device, 5, LENGTH))


@pytest.mark.parametrize("dtype, other", PAIRS)
def test_a_shift_may_have_another_dtype_than_its_scale(device, dtype, other):
    x = numbers(torch.bfloat16, device, 2, 5, LENGTH)
    scale, shift = numbers(dtype, device, 2, 1, LENGTH), numbers(other, device, 2, 1, LENGTH)
    norm = liger.LigerModulatedRMSNorm(LENGTH).to(device)
    outputs, grads = results_of(norm, (x, scale, shift))
    wide = [scale.detach().float().requires_grad_(), shift.detach().float().requires_grad_()]
    wanted, of_wide = results_of(norm, (x, *wide))
    assert torch.equal(*outputs, *wanted)
    assert outputs[0].dtype == x.dtype
    for grad, other_grad, leaf in zip(grads, of_wide, (x, scale, shift), strict=True):
        assert torch.equal(grad, other_grad.to(leaf.dtype))


def rotations(device):
    angles = torch.randn(1, 9, 16, device=device)
    cos, sin = angles.repeat(1, 1, 2).cos(), angles.repeat(1, 1, 2).sin()
    freqs = torch.polar(torch.ones_like(angles), angles)
    three = (cos.expand(3, 1, -1, -1), sin.expand(3, 1, -1, -1))
    return [
        lambda q, k: liger.liger_rotary_pos_emb(q, k, cos, sin),
        lambda q, k: liger.liger_multimodal_rotary_pos_emb(q, k, *three, [4, 6, 6]),
        lambda q, k: llama4_rope.liger_llama4_text_rotary_pos_emb(q, k, freqs),
        lambda q, k: llama4_rope.liger_llama4_vision_rotary_pos_emb(q, k, freqs),
    ]


@pytest.mark.parametrize("dtype, other", PAIRS)
@pytest.mark.parametrize("number", range(4))
def test_queries_and_keys_of_two_dtypes_keep_their_own(device, number, dtype, other):
    turn = rotations(device)[number]
    shape = (2, 4, 9, 32) if number < 2 else (2, 9, 4, 32)
    q, k = numbers(dtype, device, *shape), numbers(other, device, *shape)
    for first, second in ((q, k), (k, q)):
        outputs, grads = results_of(turn, (first, second))
        alone, of_alone = results_of(lambda x: turn(x, x.detach())[0], (first,))
        assert outputs[1].dtype == second.dtype
        assert torch.equal(outputs[0], *alone)
        assert torch.equal(grads[0], *of_alone)
