"""Norm and rotation of q and k in one: against float64, and against the two operators in turn."""

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
from liger_jit.functional import qk_norm_rope

WRT = ("q", "k", "weight_q", "weight_k")


def normed(x, weight, eps, offset, casting_mode):
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    if casting_mode == "llama":
        return ((offset + weight) * y.to(x.dtype)).to(x.dtype)
    return (y * (offset + weight.to(wide))).to(x.dtype)


def rotated(x, cos, sin):
    width = cos.shape[-1]
    part, rest = x[..., :width], x[..., width:]
    first, second = part.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned = part * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1).to(x.dtype)


def reference(q, k, weight_q, weight_k, cos, sin, eps=1e-6, offset=0.0, casting_mode="llama"):
    how = (eps, offset, casting_mode)
    return (
        rotated(normed(q, weight_q, *how), cos, sin),
        rotated(normed(k, weight_k, *how), cos, sin),
    )


def in_turn(q, k, weight_q, weight_k, cos, sin, **options):
    """Our norms of the heads as they lie in memory, then our rotation."""
    q, k = (
        functional.rms_norm(x.transpose(1, 2), weight, **options).transpose(1, 2)
        for x, weight in ((q, weight_q), (k, weight_k))
    )
    return functional.rope(q, k, cos, sin)


def tables(batch, length, width, dtype, device):
    # Different for each entry of the batch, as with packed sequences.
    start = torch.arange(batch, device=device).mul(1000).unsqueeze(1)
    position = (start + torch.arange(length, device=device)).float()
    frequency = 1e4 ** (-torch.arange(0, width, 2, device=device) / width)
    angle = position.unsqueeze(-1) * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return {"cos": angle.cos().to(dtype), "sin": angle.sin().to(dtype)}


def heads_of(batch, heads, length, size, dtype, device):
    """[B, H, T, D] as attention has it: a view of what a projection gives."""
    return torch.randn(batch, length, heads, size, device=device).to(dtype).transpose(1, 2)


def tensors(
    batch, heads, key_heads, length, size, dtype, device, width=None, weight_dtype=None, tables_of=1
):
    def weight():
        return (1 + 0.3 * torch.randn(size, device=device)).to(weight_dtype or dtype)

    return {
        "q": heads_of(batch, heads, length, size, dtype, device),
        "k": heads_of(batch, key_heads, length, size, dtype, device),
        "weight_q": weight(),
        "weight_k": weight(),
        **tables(tables_of, length, width or size, dtype, device),
    }


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(qk_norm_rope, **options), partial(reference, **options), inputs, WRT
    )


# 2: the least; 6, 14: no vector load fits; 64, 128, 256: the usual; 80, 96: halves that no power of
# two of packs makes; 512: more than one pack of each half for a thread; 1024: the most
@pytest.mark.parametrize("size", [2, 6, 14, 64, 80, 96, 128, 256, 512, 1024])
def test_every_head_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(2, 4, 2, 9, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(2, 4, 2, 9, 64, dtype, device))


@pytest.mark.parametrize("casting_mode", ["llama", "gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode):
    for dtype in HALVES:
        inputs = tensors(2, 4, 2, 9, 64, dtype, device)
        check(inputs, offset=1.0, casting_mode=casting_mode, eps=1e-3)


# 6 heads to 2 is grouped queries, 3 to 3 as many, 5 to 1 multi-query; none are powers of two
@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (5, 1), (1, 7)])
@pytest.mark.parametrize("length", [1, 37])
def test_every_grouping_of_heads_works(device, heads, length):
    check(tensors(2, *heads, length, 64, torch.float32, device))


# 32 of 64: a half; 64 of 256: Qwen3-Next's quarter; 20 of 80: a share that no vector divides;
# 80 of 96: halves of five packs
@pytest.mark.parametrize("width, size", [(32, 64), (64, 256), (20, 80), (80, 96)])
def test_a_partial_rotation_normalises_the_rest_too(device, width, size):
    inputs = tensors(2, 4, 2, 9, size, torch.bfloat16, device, width)
    result = check(inputs)
    rest = functional.rms_norm(inputs["q"], inputs["weight_q"])[..., width:]
    assert torch.equal(result["output 0"][..., width:], rest)


# 16: one pack in each half, so a compiler may take the row as a whole; 80: halves of five packs;
# 14: no vector load fits
@pytest.mark.parametrize(
    "size, width, casting_mode",
    [
        (16, 16, "llama"),
        (128, 128, "llama"),
        (64, 32, "gemma"),
        (80, 80, "llama"),
        (14, 6, "gemma"),
    ],
)
def test_it_gives_the_bits_of_norm_and_rotation_in_turn(device, size, width, casting_mode):
    # Enough tokens that a GPU has as many partial sums for k as for q.
    length = 2200 if device == "cuda" else 70
    for dtype in DTYPES:
        inputs = tensors(2, 4, 2, length, size, dtype, device, width)
        grad_output = [torch.randn_like(inputs["q"]), torch.randn_like(inputs["k"])]
        options = {"casting_mode": casting_mode, "offset": 0.5, "eps": 1e-5}
        wanted = run(partial(in_turn, **options), inputs, WRT, grad_output)
        for name, value in run(partial(qk_norm_rope, **options), inputs, WRT, grad_output).items():
            assert torch.equal(value, wanted[name]), f"{name} in {dtype}"


def test_tables_may_differ_for_each_entry_of_the_batch(device):
    inputs = tensors(3, 4, 2, 9, 64, torch.float32, device, tables_of=3)
    check(inputs)
    one = {**inputs, "cos": inputs["cos"][1:2], "sin": inputs["sin"][1:2]}
    assert torch.equal(qk_norm_rope(**one)[0][1], qk_norm_rope(**inputs)[0][1])


def test_tables_of_two_three_and_four_dimensions_mean_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    q, k, weight_q, weight_k, cos, sin = inputs.values()
    wanted = qk_norm_rope(**inputs)
    for form in [cos[0], cos.expand(2, -1, -1), cos.unsqueeze(1)]:
        partner = {2: sin[0], 3: sin.expand(2, -1, -1), 4: sin.unsqueeze(1)}[form.dim()]
        found = qk_norm_rope(q, k, weight_q, weight_k, form, partner)
        assert all(map(torch.equal, found, wanted))
    moved = (q.transpose(1, 2), k.transpose(1, 2), weight_q, weight_k)
    tables = (cos.unsqueeze(2), sin.unsqueeze(2))
    turned = qk_norm_rope(*moved, *tables, unsqueeze_dim=2)
    assert torch.equal(turned[1].transpose(1, 2), wanted[1])


def test_float32_tables_and_weights_serve_half_precision_heads(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device, weight_dtype=torch.float32)
    inputs.update(tables(1, 9, 64, torch.float32, device))
    result = check(inputs, casting_mode="gemma")
    assert result["output 0"].dtype == torch.bfloat16
    assert result["gradient of weight_k"].dtype == torch.float32


def test_outputs_and_gradients_lie_as_the_inputs_do(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    wanted = run(qk_norm_rope, inputs, WRT)
    assert wanted["output 0"].stride() == inputs["q"].stride()
    assert wanted["gradient of k"].stride() == inputs["k"].stride()
    solid = {**inputs, "q": inputs["q"].contiguous(), "k": inputs["k"].contiguous()}
    result = run(qk_norm_rope, solid, WRT)
    assert result["output 0"].is_contiguous()
    for name, value in wanted.items():
        assert torch.equal(result[name], value), name


def test_slices_of_one_packed_projection_are_read_in_place(device):
    packed = torch.randn(2, 9, (4 + 2 + 2) * 64, device=device).bfloat16().requires_grad_()
    q, k, _ = packed.split((4 * 64, 2 * 64, 2 * 64), dim=-1)
    q, k = q.view(2, 9, 4, 64).transpose(1, 2), k.view(2, 9, 2, 64).transpose(1, 2)
    others = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    others = {name: others[name] for name in ("weight_q", "weight_k", "cos", "sin")}
    outputs = qk_norm_rope(q, k, **others)
    copies = {"q": q.detach().contiguous(), "k": k.detach().contiguous(), **others}
    wanted = run(qk_norm_rope, copies, WRT)
    assert torch.equal(outputs[0], wanted["output 0"])
    assert torch.equal(outputs[1], wanted["output 1"])
    (outputs[0].sum() + outputs[1].sum()).backward()
    got = packed.grad[..., : 4 * 64].view(2, 9, 4, 64).transpose(1, 2)
    assert torch.equal(got, wanted["gradient of q"])


def test_misaligned_tensors_and_grad_output_gradients_of_any_strides_give_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    grad_output = [torch.randn_like(inputs["q"]), torch.randn_like(inputs["k"])]
    wanted = run(qk_norm_rope, inputs, WRT, grad_output)
    odd = {}
    for name, value in inputs.items():
        padded = value.new_zeros(*value.shape[:-1], 65)
        padded[..., 1:] = value
        odd[name] = padded[..., 1:]
    turned = [gradient.transpose(2, 3).contiguous().transpose(2, 3) for gradient in grad_output]
    for name, value in run(qk_norm_rope, odd, WRT, turned).items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize(
    "wrt", [("q",), ("k",), ("weight_q",), ("q", "k"), WRT[2:], ("k", "weight_q")]
)
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    every = run(qk_norm_rope, inputs, WRT)
    result = run(qk_norm_rope, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_the_gradient_of_one_output_alone_leaves_the_other_without(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    leaves = {name: x.clone().requires_grad_(name in WRT) for name, x in inputs.items()}
    qk_norm_rope(**leaves)[0].sum().backward()
    every = run(qk_norm_rope, inputs, WRT)
    assert torch.equal(leaves["weight_q"].grad, every["gradient of weight_q"])
    assert leaves["k"].grad is None
    assert leaves["weight_k"].grad is None


def test_no_tokens_or_no_batch_give_empty_results(device):
    for batch, length in [(0, 9), (2, 0)]:
        result = run(qk_norm_rope, tensors(batch, 4, 2, length, 64, torch.float32, device), WRT)
        assert result["gradient of k"].shape == (batch, 2, length, 64)
        zeros = torch.zeros(64, device=device)
        assert torch.equal(result["gradient of weight_q"], zeros)
        assert torch.equal(result["gradient of weight_k"], zeros)


@pytest.mark.parametrize("casting_mode", ["llama", "gemma"])
def test_inf_nan_denormals_and_zeros_give_what_eager_gives(device, casting_mode):
    for dtype in DTYPES:
        inputs = tensors(1, 2, 1, 6, 64, dtype, device)
        for x in (inputs["q"], inputs["k"]):
            x[:, 0, 0, 3] = float("inf")
            x[:, 0, 1, 5] = float("-inf")
            x[:, 0, 2, 7] = float("nan")
            x[:, 0, 3] = 0.0
            x[:, 0, 4] = torch.finfo(dtype).smallest_normal / 8
        results = qk_norm_rope(**inputs, casting_mode=casting_mode)
        wanted = reference(**inputs, casting_mode=casting_mode)
        for result, eager in zip(results, wanted, strict=True):
            assert torch.equal(result.isnan(), eager.isnan())
            finite = eager.isfinite()
            torch.testing.assert_close(result[finite], eager[finite], rtol=3e-2, atol=1e-2)
        rows = [0, 1, 2, 3, 4]
        assert_same_specials(
            results[0][:, :, rows].float(),
            in_turn(**inputs, casting_mode=casting_mode)[0][:, :, rows].float(),
        )


def test_values_whose_squares_overflow_float16_are_normalised(device):
    inputs = tensors(1, 2, 1, 9, 64, torch.float16, device)
    for name in ("q", "k"):
        inputs[name] = (1e4 * inputs[name].float()).clamp(-6e4, 6e4).half()
    check(inputs)


def test_heads_of_very_different_size_do_not_disturb_each_other(device):
    inputs = tensors(1, 13, 1, 3, 64, torch.float32, device)
    scale = torch.logspace(-6, 6, 13, device=device).view(1, 13, 1, 1)
    wanted = qk_norm_rope(**inputs, eps=1e-30)[0]
    result = qk_norm_rope(**{**inputs, "q": inputs["q"] * scale}, eps=1e-30)[0]
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(qk_norm_rope, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_a_table_that_wants_a_gradient_is_refused_rather_than_ignored(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    inputs["cos"].requires_grad_()
    assert_refused(lambda: qk_norm_rope(**inputs), "qk_norm_rope", "cos", "detach")


def test_errors_name_the_argument_and_its_value(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)

    def refused(*words, **changes):
        assert_refused(lambda: qk_norm_rope(**{**inputs, **changes}), "qk_norm_rope", *words)

    k, cos = inputs["k"], inputs["cos"]
    refused("unsqueeze_dim", "3", "1, 2", unsqueeze_dim=3)
    refused("casting_mode", "bert", "gemma", casting_mode="bert")
    refused("eps", "-1", "0 or more", eps=-1.0)
    refused("weight_q", "63", "64", weight_q=inputs["weight_q"][:63])
    refused("weight_k", "f16|float16", weight_k=inputs["weight_k"].half())
    refused(r"\bk\b", "None", "Tensor", k=None)
    refused(r"\bk\b", "16", k=k.half())
    refused(r"\bk\b", "8", k=k[:, :, :8])
    refused(r"\bk\b", "0, 9", "1 head", k=k[:, :0])
    refused("cos", "8", "9", cos=cos[:, :8], sin=cos[:, :8])
    refused("cos", "None", "Tensor", cos=None)
    many = cos.unsqueeze(1).expand(-1, 4, -1, -1)
    refused("cos", "4", cos=many)
    wide = tensors(1, 1, 1, 1, 1040, torch.float32, device)
    assert_refused(lambda: qk_norm_rope(**wide), r"\bq\b", "1040", "1024")
