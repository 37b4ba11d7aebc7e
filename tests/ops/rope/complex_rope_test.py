"""Rotary embedding by complex factors: against float64 and Llama 4's own code."""

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import complex_rope, rope
from liger_jit.transformers import llama4_rope
from rotary_tables import angles_of, different_batches, heads, widened
from transformers.models.llama4 import modeling_llama4

text_rope = llama4_rope.liger_llama4_text_rotary_pos_emb
vision_rope = llama4_rope.liger_llama4_vision_rotary_pos_emb


def reference(q, k, freqs):
    """Of parts side by side, heads in the second dimension."""
    factors = torch.view_as_complex(freqs.unflatten(-1, (-1, 2)).contiguous()).unsqueeze(1)

    def turned(x):
        width = freqs.shape[-1]
        wide = x[..., :width].to(torch.promote_types(x.dtype, torch.float32))
        numbers = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
        made = torch.view_as_real(numbers * factors.to(numbers.dtype)).flatten(-2).to(x.dtype)
        return torch.cat((made, x[..., width:]), dim=-1)

    return turned(q), turned(k)


def factors(batch, tokens, size, device, dtype=torch.float32):
    angles = angles_of(different_batches(batch, tokens, device), size).to(dtype)
    # Not of length one, as of a model with a factor for long contexts.
    return torch.polar(torch.full_like(angles, 1.25), angles)


def side_by_side(freqs):
    return torch.view_as_real(freqs).flatten(-2)


def tensors(dtype, device, size=64, width=None, tokens=9, table_batch=2):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    freqs = factors(table_batch, tokens, width or size, device, wide)
    return {**heads(2, 6, 2, tokens, size, dtype, device), "freqs": side_by_side(freqs)}


def check(inputs):
    return assert_as_exact_as_eager(complex_rope, reference, inputs, ("q", "k"))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(dtype, device))


# 2: the least; 6, 20: no vector fits; 88: Llama 4's towers, 128 its text; the last two rotate a
# part
@pytest.mark.parametrize(
    "size, width", [(2, 2), (6, 6), (20, 20), (88, 88), (128, 128), (64, 24), (37, 6)]
)
@pytest.mark.parametrize("tokens", [1, 129])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, width, tokens):
    inputs = tensors(torch.bfloat16, device, size, width, tokens)
    result = check(inputs)
    assert torch.equal(result["output 1"][..., width:], inputs["k"][..., width:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("table_batch", [1, 2])
def test_it_is_the_text_rotation_of_llama_4(device, dtype, table_batch):
    q = torch.randn(2, 9, 5, 128, device=device).to(dtype)
    k = torch.randn(2, 9, 1, 128, device=device).to(dtype)
    freqs = factors(table_batch, 9, 128, device)
    assert_same_as_the_model(text_rope, modeling_llama4.apply_rotary_emb, q, k, freqs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(10, 44), (1, 10, 1, 44), (10, 1, 44)])
def test_it_is_the_vision_rotation_of_llama_4(device, dtype, shape):
    q, k = (torch.randn(3, 10, 4, 88, device=device).to(dtype) for _ in "qk")
    freqs = factors(1, 10, 88, device).view(shape)
    assert_same_as_the_model(vision_rope, modeling_llama4.vision_apply_rotary_emb, q, k, freqs)


def assert_same_as_the_model(ours, theirs, q, k, freqs):
    """No further from the model's code in float64 than the model's code is."""
    names = {"q": q, "k": k, "freqs": freqs.to(torch.complex64)}
    exact = {"q": q.double(), "k": k.double(), "freqs": freqs.to(torch.complex128)}
    grads = [torch.randn_like(q), torch.randn_like(k)]

    def of(function):
        return lambda q, k, freqs: function(q, k, freqs)

    truth = run(of(widened(theirs)), exact, "qk", grads)
    mine, eager = run(of(ours), names, "qk", grads), run(of(theirs), names, "qk", grads)
    for name, value in truth.items():
        assert mine[name].shape == value.shape and mine[name].dtype == q.dtype
        error = (mine[name].double() - value).norm()
        assert error <= 1.05 * (eager[name].double() - value).norm() + 1e-7 * value.norm(), name


def test_the_bits_are_those_of_a_rotation_of_neighbours(device):
    inputs = tensors(torch.bfloat16, device)
    mine = run(complex_rope, inputs, "qk")
    freqs = inputs.pop("freqs").unflatten(-1, (-1, 2))
    tables = {"cos": freqs[..., 0], "sin": freqs[..., 1]}
    wanted = run(
        lambda **all: rope(**all, interleaved=True, half_tables=True), {**inputs, **tables}, "qk"
    )
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], value) for name, value in wanted.items())


def test_complex_factors_and_their_parts_mean_the_same(device):
    q, k, freqs = tensors(torch.bfloat16, device, table_batch=1).values()
    numbers = torch.view_as_complex(freqs.unflatten(-1, (-1, 2)))
    wanted = complex_rope(q, k, freqs)
    for form in (
        numbers,
        numbers[0],
        freqs[0],
        numbers.unsqueeze(1),
        numbers.conj().resolve_conj().conj(),
    ):
        assert all(map(torch.equal, complex_rope(q, k, form), wanted))
    alone, none = complex_rope(q, None, numbers)
    assert none is None and torch.equal(alone, wanted[0])


# A model that was cast, as by model.bfloat16(), has lost the imaginary parts of its factors.
@pytest.mark.parametrize("cast", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("turn", [text_rope, vision_rope])
def test_real_factors_multiply_as_in_the_models(device, turn, cast):
    name = "apply_rotary_emb" if turn is text_rope else "vision_apply_rotary_emb"
    theirs = getattr(modeling_llama4, name)
    leaves = []
    for _ in range(2):
        torch.manual_seed(0)
        q = torch.randn(2, 9, 4, 64, device=device).bfloat16()
        k = torch.randn(2, 9, 2, 64, device=device).bfloat16()
        leaves.append((q.requires_grad_(), k.requires_grad_()))
    freqs = factors(1, 9, 64, device).real.to(cast)
    shapes = [freqs, freqs.expand(2, -1, -1)]
    if turn is vision_rope:
        shapes = [freqs, freqs[0], freqs[0, :, None]]
    for given in shapes:
        found, wanted = turn(*leaves[0], given), theirs(*leaves[1], given)
        grads = []
        for outputs, inputs in ((found, leaves[0]), (wanted, leaves[1])):
            loss = sum((y.float() * torch.arange(64, device=device)).sum() for y in outputs)
            grads.append(torch.autograd.grad(loss, inputs))
        assert all(map(torch.equal, found, wanted))
        assert all(map(torch.equal, *grads))


def test_factors_of_more_tokens_than_there_are_serve_the_first(device):
    q = torch.randn(2, 9, 4, 64, device=device)
    freqs = factors(2, 12, 64, device)
    wanted = text_rope(q, q, freqs[:, :9])
    for given in (freqs, side_by_side(freqs)):
        assert all(map(torch.equal, text_rope(q, q, given), wanted))


def test_slices_of_one_packed_projection_are_read_in_place(device):
    packed = torch.randn(2, 9, 8 * 64, device=device).bfloat16().requires_grad_()
    q, k, _ = (one.unflatten(-1, (-1, 64)) for one in packed.split((256, 128, 128), dim=-1))
    freqs = factors(1, 9, 64, device)
    outputs = text_rope(q, k, freqs)
    wanted = text_rope(q.contiguous(), k.contiguous(), freqs)
    assert all(map(torch.equal, outputs, wanted))
    assert outputs[0].shape == q.shape
    (outputs[0].sum() + outputs[1].sum()).backward()
    assert packed.grad[..., 384:].abs().max() == 0 < packed.grad[..., :384].abs().max()


def test_both_are_put_into_the_models_code():
    class Module:
        pass

    llama4_rope.apply_liger_llama4_rope_full(Module)
    assert Module.apply_rotary_emb is text_rope
    assert Module.vision_apply_rotary_emb is vision_rope


def test_it_compiles_without_a_break(device):
    q, k = torch.randn(2, 9, 4, 64, device=device), torch.randn(2, 9, 2, 64, device=device)
    freqs = factors(1, 9, 64, device)
    compiled = torch.compile(text_rope, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(q, k, freqs), text_rope(q, k, freqs)))


def test_errors_name_the_argument_and_its_value(device):
    q, k, freqs = tensors(torch.float32, device).values()
    assert_refused(lambda: complex_rope(q, k, freqs[:, :8]), "complex_rope", "freqs", "8", "9")
    assert_refused(lambda: complex_rope(q, k, freqs[..., :63]), "complex_rope", "freqs", "63")
    assert_refused(lambda: complex_rope(q, k, freqs, 3), "complex_rope", "unsqueeze_dim", "3")
    assert_refused(lambda: complex_rope(q, k, None), "complex_rope", "freqs", "None", "Tensor")
    asked = freqs.clone().requires_grad_()
    assert_refused(lambda: complex_rope(q, k, asked), "complex_rope", "freqs", "detach")
    sides = torch.randn(2, 9, 4, 64, device=device)
    few = factors(1, 8, 64, device)
    part = factors(1, 9, 32, device)
    for given in (part, part.real, side_by_side(factors(1, 9, 30, device))):
        shape = str(tuple(given.shape))[1:-1]
        assert_refused(lambda x=given: text_rope(sides, sides, x), "freqs_cis", shape, "32", "64")
    assert_refused(lambda: vision_rope(sides, sides, few), "freqs_ci", r"\(1, 8, 32\)", "9", "32")
