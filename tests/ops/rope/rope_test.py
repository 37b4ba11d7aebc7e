"""Rotary position embedding of queries and keys against float64, in every layout it meets."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import rope


def rotate(x, cos, sin):
    width = cos.shape[-1]
    part, rest = x[..., :width], x[..., width:]
    first, second = part.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.cat((part * cos + turned * sin, rest), dim=-1).to(x.dtype)


def reference(q, k, cos, sin, unsqueeze_dim=1):
    if cos.dim() == 2:
        cos, sin = cos.unsqueeze(0), sin.unsqueeze(0)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotate(q, cos, sin), rotate(k, cos, sin)


def tables(batch, length, width, dtype, device):
    # Different for each entry of the batch, as with packed sequences.
    start = torch.arange(batch, device=device).mul(1000).unsqueeze(1)
    position = (start + torch.arange(length, device=device)).float()
    frequency = 1e4 ** (-torch.arange(0, width, 2, device=device) / width)
    angle = position.unsqueeze(-1) * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return {"cos": angle.cos().to(dtype), "sin": angle.sin().to(dtype)}


def tensors(batch, heads, key_heads, length, size, dtype, device, width=None, table_batch=1):
    return {
        "q": torch.randn(batch, heads, length, size, device=device).to(dtype),
        "k": torch.randn(batch, key_heads, length, size, device=device).to(dtype),
        **tables(table_batch, length, width or size, dtype, device),
    }


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(rope, **options),
        partial(reference, **options),
        inputs,
        ("q", "k"),
    )


# 2: the least; 6: no vector load fits; 64, 128: the usual; 80: Phi's, no power of two; 256: Gemma's
@pytest.mark.parametrize("size", [2, 6, 64, 80, 128, 256])
def test_every_head_size_is_as_exact_as_eager_in_bfloat16(device, size):
    check(tensors(2, 4, 2, 9, size, torch.bfloat16, device))


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(2, 4, 2, 9, 64, dtype, device))


# 6 heads to 2 is grouped queries, 3 to 3 as many, 5 to 1 multi-query; none are powers of two
@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (5, 1)])
@pytest.mark.parametrize("length", [1, 129])
def test_every_grouping_of_heads_works(device, heads, length):
    check(tensors(2, *heads, length, 64, torch.float32, device))


# 32 of 64: GPT-NeoX's share; 20 of 80: a share that no vector divides
@pytest.mark.parametrize("width, size", [(32, 64), (20, 80)])
def test_a_partial_rotation_leaves_the_rest_alone(device, width, size):
    inputs = tensors(2, 4, 2, 9, size, torch.bfloat16, device, width)
    result = check(inputs)
    assert torch.equal(result["output 0"][..., width:], inputs["q"][..., width:])


def test_tables_may_differ_for_each_entry_of_the_batch(device):
    inputs = tensors(3, 4, 2, 9, 64, torch.float32, device, table_batch=3)
    check(inputs)
    one = {**inputs, "cos": inputs["cos"][1:2], "sin": inputs["sin"][1:2]}
    assert torch.equal(rope(**one)[0][1], rope(**inputs)[0][1])


def test_tables_of_two_three_and_four_dimensions_mean_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    q, k, cos, sin = inputs.values()
    wanted = rope(q, k, cos, sin)
    for form in [cos[0], cos.expand(2, -1, -1), cos.unsqueeze(1)]:
        partner = {2: sin[0], 3: sin.expand(2, -1, -1), 4: sin.unsqueeze(1)}[form.dim()]
        assert all(map(torch.equal, rope(q, k, form, partner), wanted))
    turned = rope(q.transpose(1, 2), k.transpose(1, 2), cos.unsqueeze(2), sin.unsqueeze(2), 2)
    assert torch.equal(turned[1].transpose(1, 2), wanted[1])


def test_float32_tables_serve_half_precision_heads(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    inputs.update(tables(1, 9, 64, torch.float32, device))
    assert check(inputs)["output 0"].dtype == torch.bfloat16


def test_heads_in_the_second_dimension_or_the_third_give_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    wanted = run(rope, inputs, ("q", "k"))
    moved = {**inputs, "q": inputs["q"].transpose(1, 2), "k": inputs["k"].transpose(1, 2)}
    for form in (moved, {name: value.contiguous() for name, value in moved.items()}):
        result = run(partial(rope, unsqueeze_dim=2), form, ("q", "k"))
        for key, value in wanted.items():
            assert torch.equal(result[key].transpose(1, 2), value), key
        assert result["output 0"].stride() == form["q"].stride()


def test_slices_of_one_packed_projection_are_read_in_place(device):
    packed = torch.randn(2, 9, (4 + 2 + 2) * 64, device=device).bfloat16().requires_grad_()
    q, k, _ = packed.split((4 * 64, 2 * 64, 2 * 64), dim=-1)
    q, k = q.view(2, 9, 4, 64).transpose(1, 2), k.view(2, 9, 2, 64).transpose(1, 2)
    table = tables(1, 9, 64, torch.bfloat16, device)
    outputs = rope(q, k, **table)
    copies = {"q": q.detach().contiguous(), "k": k.detach().contiguous(), **table}
    wanted = run(rope, copies, ("q", "k"))
    assert torch.equal(outputs[0], wanted["output 0"])
    assert torch.equal(outputs[1], wanted["output 1"])
    (outputs[0].sum() + outputs[1].sum()).backward()
    got = packed.grad[..., : 4 * 64].view(2, 9, 4, 64).transpose(1, 2)
    assert torch.equal(got, wanted["gradient of q"])


def test_misaligned_heads_and_tables_give_the_same(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.bfloat16, device)
    wanted = rope(**inputs)
    odd = {}
    for name, value in inputs.items():
        padded = value.new_zeros(*value.shape[:-1], 65)
        padded[..., 1:] = value
        odd[name] = padded[..., 1:]
    assert all(map(torch.equal, rope(**odd), wanted))


def test_queries_alone_and_a_gradient_of_one_alone_work(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    both = run(rope, inputs, ("q", "k"))
    alone, none = rope(inputs["q"], None, inputs["cos"], inputs["sin"])
    assert none is None
    assert torch.equal(alone, both["output 0"])
    q = inputs["q"].clone().requires_grad_()
    rope(q, None, inputs["cos"], inputs["sin"])[0].sum().backward()
    assert torch.equal(q.grad, both["gradient of q"])
    k = inputs["k"].clone().requires_grad_()
    rope(inputs["q"], k, inputs["cos"], inputs["sin"])[1].sum().backward()
    assert torch.equal(k.grad, both["gradient of k"])


def test_the_gradient_is_the_rotation_back(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float64 if device == "cpu" else torch.float32, device)
    grad_output = [inputs["q"], inputs["k"]]
    result = run(rope, inputs, ("q", "k"), grad_output)
    back = rope(inputs["q"], inputs["k"], inputs["cos"], -inputs["sin"])
    torch.testing.assert_close(result["gradient of q"], back[0])
    torch.testing.assert_close(result["gradient of k"], back[1])


def test_no_tokens_or_no_batch_give_empty_results(device):
    for batch, length in [(0, 9), (2, 0)]:
        result = run(rope, tensors(batch, 4, 2, length, 64, torch.float32, device), ("q", "k"))
        assert result["gradient of k"].shape == (batch, 2, length, 64)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(2, 4, 2, 9, 64, torch.float32, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(rope, inputs, ("q", "k"))
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_a_table_that_wants_a_gradient_is_refused_rather_than_ignored(device):
    q, k, cos, sin = tensors(2, 4, 2, 9, 64, torch.float32, device).values()
    assert_refused(lambda: rope(q, k, cos.clone().requires_grad_(), sin), "rope", "cos", "detach")


def test_errors_name_the_argument_and_its_value(device):
    q, k, cos, sin = tensors(2, 4, 2, 9, 64, torch.float32, device).values()
    assert_refused(lambda: rope(q, k, cos, sin, 3), "rope", "unsqueeze_dim", "3", "1, 2")
    assert_refused(lambda: rope(q, k, cos[:, :8], sin[:, :8]), "rope", "cos", "8", "9")
    assert_refused(lambda: rope(q, k, cos, sin[..., :32]), "rope", "sin", "32", "64")
    assert_refused(lambda: rope(q, k, cos[..., :63], sin[..., :63]), "rope", "cos", "63")
    wide = torch.cat((cos, cos), dim=-1)
    assert_refused(lambda: rope(q, k, wide, wide), "rope", "cos", "128", "64")
    assert_refused(lambda: rope(q, k.half(), cos, sin), "rope", r"\bk\b", "16")
    assert_refused(lambda: rope(q, k[:, :, :8], cos, sin), "rope", r"\bk\b", "8")
    assert_refused(lambda: rope(q[0], k[0], cos, sin), "rope", r"\bq\b")
    assert_refused(lambda: rope(q.int(), k.int(), cos, sin), "rope", r"\bq\b", "i32|int")
    assert_refused(lambda: rope(q, k, None, sin), "rope", "cos", "None", "Tensor")
    assert_refused(lambda: rope([1.0], k, cos, sin, 2), "rope", r"\bq\b", "list", "Tensor")
    three = cos.expand(3, -1, -1)
    assert_refused(lambda: rope(q, k, three, three), "rope", "cos", "3", "2")
    many = cos.unsqueeze(1).expand(-1, 4, -1, -1)
    assert_refused(lambda: rope(q, k, many, many), "rope", "cos", "4")


COUNTED = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_tokens_that_are_one_in_memory_turn_each(device):
    q = COUNTED.to(device).expand(1, 1, 2, 4)
    cos, sin = torch.ones(1, 2, 4, device=device), torch.zeros(1, 2, 4, device=device)
    assert rope(q, None, cos, sin)[0].flatten().tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_a_gradient_that_is_one_in_memory_turns_back_for_each_token(device):
    q = torch.zeros(1, 1, 2, 4, device=device, requires_grad=True)
    cos, sin = torch.ones(1, 2, 4, device=device), torch.zeros(1, 2, 4, device=device)
    (rope(q, None, cos, sin)[0].sum(2) * COUNTED.to(device)).sum().backward()
    assert q.grad.flatten().tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
