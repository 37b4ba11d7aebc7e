"""Norms of all heads of a token together and the rotation of q and k in one: against float64, and
against the operators in turn."""

from functools import partial

import pytest
import torch
from accuracy import (
    DTYPES,
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
)
from liger_jit import functional
from liger_jit.functional import full_qk_norm_rope
from qk_norm_rope_test import heads_of, normed, rotated, tables

WRT = ("q", "k", "weight_q", "weight_k")


def of_tokens(norm, x, weight):
    """The norm of [B, H, T, D] over all heads of a token."""
    tokens = x.transpose(1, 2)
    return norm(tokens.flatten(2), weight).unflatten(2, tokens.shape[2:]).transpose(1, 2)


def reference(q, k, weight_q, weight_k, cos, sin, eps=1e-6, offset=0.0, casting_mode="llama"):
    def norm(x, weight):
        return normed(x, weight, eps, offset, casting_mode)

    q, k = of_tokens(norm, q, weight_q), of_tokens(norm, k, weight_k)
    return rotated(q, cos, sin), rotated(k, cos, sin)


def in_turn(q, k, weight_q, weight_k, cos, sin, **options):
    """Our norms of the tokens as they lie in memory, then our rotation."""
    norm = partial(functional.rms_norm, **options)
    return functional.rope(of_tokens(norm, q, weight_q), of_tokens(norm, k, weight_k), cos, sin)


def tensors(
    batch, heads, key_heads, length, size, dtype, device, width=None, weight_dtype=None, tables_of=1
):
    def weight(heads):
        return (1 + 0.3 * torch.randn(heads * size, device=device)).to(weight_dtype or dtype)

    return {
        "q": heads_of(batch, heads, length, size, dtype, device),
        "k": heads_of(batch, key_heads, length, size, dtype, device),
        "weight_q": weight(heads),
        "weight_k": weight(key_heads),
        **tables(tables_of, length, width or size, dtype, device),
    }


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(full_qk_norm_rope, **options), partial(reference, **options), inputs, WRT
    )


# 2: the least; 6, 14: a vector would be of two heads; 64, 128, 256: the usual; 80, 96: halves that
# no power of two of packs makes; 2048: rows longer than the accumulators of a team
@pytest.mark.parametrize("size", [2, 6, 14, 64, 80, 96, 128, 256, 2048])
def test_every_head_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(2, 4, 2, 50, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(2, 4, 2, 9, 64, dtype, device))


@pytest.mark.parametrize("casting_mode", ["llama", "gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode):
    for dtype in HALVES:
        inputs = tensors(2, 4, 2, 9, 64, dtype, device)
        check(inputs, offset=1.0, casting_mode=casting_mode, eps=1e-3)


# 6 heads to 2 is grouped queries, 3 to 3 as many, 5 to 1 multi-query; 40 to 8 is OLMo 2 32B
@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (5, 1), (1, 7), (40, 8)])
@pytest.mark.parametrize("length", [1, 37])
def test_every_grouping_of_heads_works(device, heads, length):
    check(tensors(2, *heads, length, 64, torch.float32, device))


# 32 of 64: a half; 20 of 80: a share that no vector divides; 80 of 96: halves of five packs
@pytest.mark.parametrize("width, size", [(32, 64), (20, 80), (80, 96)])
def test_a_partial_rotation_normalises_the_rest_too(device, width, size):
    inputs = tensors(2, 4, 2, 9, size, torch.bfloat16, device, width)
    result = check(inputs)
    rest = of_tokens(functional.rms_norm, inputs["q"], inputs["weight_q"])[..., width:]
    assert torch.equal(result["output 0"][..., width:], rest)


# As many heads of k as of q: else a GPU has other partial sums for the norm of k alone.
# 2 of 16: a compiler may take the row as a whole; 17 of 80: rows that no power of two makes;
# 5 of 14: a vector would be of two heads; 65 of 128: more packs than accumulators
@pytest.mark.parametrize(
    "heads, size, width, casting_mode",
    [
        (2, 16, 16, "llama"),
        (16, 128, 128, "llama"),
        (4, 64, 32, "gemma"),
        (17, 80, 80, "llama"),
        (5, 14, 6, "gemma"),
        (65, 128, 128, "gemma"),
    ],
)
def test_it_gives_the_bits_of_norms_and_rotation_in_turn(device, heads, size, width, casting_mode):
    length = 300 if device == "cuda" else 35
    for dtype in DTYPES:
        inputs = tensors(2, heads, heads, length, size, dtype, device, width)
        grad_output = [torch.randn_like(inputs["q"]), torch.randn_like(inputs["k"])]
        options = {"casting_mode": casting_mode, "offset": 0.5, "eps": 1e-5}
        wanted = run(partial(in_turn, **options), inputs, WRT, grad_output)
        found = run(partial(full_qk_norm_rope, **options), inputs, WRT, grad_output)
        for name, value in found.items():
            assert torch.equal(value, wanted[name]), f"{name} in {dtype}"


def test_of_one_head_it_is_the_norm_of_each(device):
    inputs = tensors(2, 1, 1, 9, 64, torch.bfloat16, device)
    wanted = run(functional.qk_norm_rope, inputs, WRT)
    for name, value in run(full_qk_norm_rope, inputs, WRT).items():
        assert torch.equal(value, wanted[name]), name


def test_tables_may_differ_for_each_entry_of_the_batch(device):
    inputs = tensors(3, 4, 2, 9, 64, torch.float32, device, tables_of=3)
    check(inputs)
    one = {**inputs, "cos": inputs["cos"][1:2], "sin": inputs["sin"][1:2]}
    assert torch.equal(full_qk_norm_rope(**one)[0][1], full_qk_norm_rope(**inputs)[0][1])


def test_heads_may_be_the_third_dimension(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    wanted = full_qk_norm_rope(**inputs)
    for name in ("q", "k"):
        inputs[name] = inputs[name].transpose(1, 2)
    turned = full_qk_norm_rope(**inputs, unsqueeze_dim=2)
    assert all(torch.equal(one.transpose(1, 2), other) for one, other in zip(turned, wanted))


def test_float32_tables_and_weights_serve_half_precision_heads(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device, weight_dtype=torch.float32)
    inputs.update(tables(1, 9, 64, torch.float32, device))
    result = check(inputs, casting_mode="gemma")
    assert result["output 0"].dtype == torch.bfloat16
    assert result["gradient of weight_k"].dtype == torch.float32


def test_outputs_and_gradients_lie_as_the_inputs_do(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    wanted = run(full_qk_norm_rope, inputs, WRT)
    assert wanted["output 0"].stride() == inputs["q"].stride()
    assert wanted["gradient of k"].stride() == inputs["k"].stride()
    solid = {**inputs, "q": inputs["q"].contiguous(), "k": inputs["k"].contiguous()}
    result = run(full_qk_norm_rope, solid, WRT)
    assert result["output 0"].is_contiguous()
    for name, value in wanted.items():
        assert torch.equal(result[name], value), name


@pytest.mark.parametrize("size", [64, 14])
def test_slices_of_one_packed_projection_are_read_in_place(device, size):
    packed = torch.randn(2, 9, (4 + 2 + 2) * size, device=device).bfloat16().requires_grad_()
    q, k, _ = packed.split((4 * size, 2 * size, 2 * size), dim=-1)
    q, k = q.view(2, 9, 4, size).transpose(1, 2), k.view(2, 9, 2, size).transpose(1, 2)
    others = tensors(2, 4, 2, 9, size, torch.bfloat16, device)
    others = {name: others[name] for name in ("weight_q", "weight_k", "cos", "sin")}
    outputs = full_qk_norm_rope(q, k, **others)
    copies = {"q": q.detach().contiguous(), "k": k.detach().contiguous(), **others}
    wanted = run(full_qk_norm_rope, copies, WRT)
    assert torch.equal(outputs[0], wanted["output 0"])
    assert torch.equal(outputs[1], wanted["output 1"])
    (outputs[0].sum() + outputs[1].sum()).backward()
    got = packed.grad[..., : 4 * size].view(2, 9, 4, size).transpose(1, 2)
    assert torch.equal(got, wanted["gradient of q"])


def test_misaligned_tensors_and_gradients_of_any_strides_give_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    grad_output = [torch.randn_like(inputs["q"]), torch.randn_like(inputs["k"])]
    wanted = run(full_qk_norm_rope, inputs, WRT, grad_output)
    odd = {}
    for name, value in inputs.items():
        padded = value.new_zeros(*value.shape[:-1], value.shape[-1] + 1)
        padded[..., 1:] = value
        odd[name] = padded[..., 1:]
    turned = [gradient.transpose(2, 3).contiguous().transpose(2, 3) for gradient in grad_output]
    for name, value in run(full_qk_norm_rope, odd, WRT, turned).items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize(
    "wrt", [("q",), ("k",), ("weight_q",), ("q", "k"), WRT[2:], ("k", "weight_q")]
)
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    every = run(full_qk_norm_rope, inputs, WRT)
    result = run(full_qk_norm_rope, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_no_tokens_or_no_batch_give_empty_results(device):
    for batch, length in [(0, 9), (2, 0)]:
        result = run(
            full_qk_norm_rope, tensors(batch, 4, 2, length, 64, torch.float32, device), WRT
        )
        assert result["gradient of k"].shape == (batch, 2, length, 64)
        assert torch.equal(result["gradient of weight_q"], torch.zeros(4 * 64, device=device))
        assert torch.equal(result["gradient of weight_k"], torch.zeros(2 * 64, device=device))


@pytest.mark.parametrize("casting_mode", ["llama", "gemma"])
def test_inf_nan_denormals_and_zeros_give_what_the_operators_give(device, casting_mode):
    for dtype in DTYPES:
        inputs = tensors(1, 2, 2, 6, 64, dtype, device)
        for x in (inputs["q"], inputs["k"]):
            x[:, 0, 0, 3] = float("inf")
            x[:, 0, 1, 5] = float("-inf")
            x[:, 0, 2, 7] = float("nan")
            x[:, :, 3] = 0.0
            x[:, :, 4] = torch.finfo(dtype).smallest_normal / 8
        results = full_qk_norm_rope(**inputs, casting_mode=casting_mode)
        wanted = in_turn(**inputs, casting_mode=casting_mode)
        for result, one in zip(results, wanted, strict=True):
            assert_same_specials(result.float(), one.float())


def test_values_whose_squares_overflow_float16_are_normalised(device):
    inputs = tensors(1, 2, 1, 9, 64, torch.float16, device)
    for name in ("q", "k"):
        inputs[name] = (1e4 * inputs[name].float()).clamp(-6e4, 6e4).half()
    check(inputs)


def test_a_table_that_wants_a_gradient_is_refused_rather_than_ignored(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    inputs["cos"].requires_grad_()
    assert_refused(lambda: full_qk_norm_rope(**inputs), "full_qk_norm_rope", "cos", "detach")


def test_errors_name_the_argument_and_its_value(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)

    def refused(*words, **changes):
        assert_refused(lambda: full_qk_norm_rope(**{**inputs, **changes}), "full_qk_norm", *words)

    k, cos = inputs["k"], inputs["cos"]
    refused("unsqueeze_dim", "3", "1, 2", unsqueeze_dim=3)
    refused("casting_mode", "bert", "gemma", casting_mode="bert")
    refused("eps", "-1", "0 or more", eps=-1.0)
    refused("weight_q", "64", "256", "all heads", weight_q=inputs["weight_q"][:64])
    refused("weight_k", "f16|float16", weight_k=inputs["weight_k"].half())
    refused(r"\bk\b", "None", "Tensor", k=None)
    refused(r"\bk\b", "16", k=k.half())
    refused(r"\bk\b", "8", k=k[:, :, :8])
    refused(r"\bk\b", "0, 9", "1 head", k=k[:, :0])
    refused("cos", "8", "9", cos=cos[:, :8], sin=cos[:, :8])
    wide = tensors(1, 17, 1, 1, 1024, torch.float32, device)
    assert_refused(lambda: full_qk_norm_rope(**wide), r"\bq\b", "17", "16384")
