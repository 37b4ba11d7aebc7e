"""The forms of rotary embeddings that models have: pairs, tables and positions, and whose code they
stand in for."""

from functools import partial

import liger_jit
import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import rope
from liger_jit.transformers.functional import liger_rope
from liger_jit.transformers.rope import (
    liger_rotary_pos_emb,
    liger_rotary_pos_emb_gpt_oss,
    liger_rotary_pos_emb_vision,
)
from rotary_tables import angles_of, as_tables, different_batches, heads, widened
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.gptj import modeling_gptj
from transformers.models.pixtral import modeling_pixtral
from transformers.models.qwen2_vl import modeling_qwen2_vl

FORMS = [(True, False), (True, True), (False, True)]
every_form = pytest.mark.parametrize("interleaved, half_tables", FORMS)


def reference(q, k, cos, sin, interleaved=False, half_tables=False):
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if half_tables and interleaved:
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
    elif half_tables:
        cos, sin = cos.repeat(1, 1, 1, 2), sin.repeat(1, 1, 1, 2)

    def turned(x):
        part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        if interleaved:
            across = torch.stack((-part[..., 1::2], part[..., ::2]), -1).flatten(-2)
        else:
            first, second = part.chunk(2, dim=-1)
            across = torch.cat((-second, first), dim=-1)
        return torch.cat((part * cos + across * sin, rest), dim=-1).to(x.dtype)

    return turned(q), turned(k)


def tensors(dtype, device, size, half_tables, width=None, tokens=9, table_batch=2, table=None):
    angles = angles_of(different_batches(table_batch, tokens, device), width or size)
    if not half_tables:
        # Both angles of a pair are read, so they are two here.
        angles = torch.cat((angles, angles + 0.5), dim=-1)
    return {**heads(2, 6, 2, tokens, size, dtype, device), **as_tables(angles, table or dtype)}


@every_form
def test_every_dtype_is_as_exact_as_eager(device, interleaved, half_tables):
    options = {"interleaved": interleaved, "half_tables": half_tables}
    for dtype in dtypes_of(device):
        for table in {dtype, torch.float32} if dtype.itemsize < 4 else {dtype}:
            inputs = tensors(dtype, device, 64, half_tables, table=table)
            check(inputs, **options)


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(rope, **options), partial(reference, **options), inputs, ("q", "k")
    )


# 2: the least; 6: no vector fits; 24, 80: half a head is no whole pack, or pack of packs; 256:
# Gemma's; the last three rotate a part
@every_form
@pytest.mark.parametrize(
    "size, width",
    [(2, 2), (6, 6), (24, 24), (80, 80), (128, 128), (256, 256), (256, 64), (64, 20), (37, 16)],
)
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, width, interleaved, half_tables):
    inputs = tensors(torch.bfloat16, device, size, half_tables, width)
    result = check(inputs, interleaved=interleaved, half_tables=half_tables)
    assert torch.equal(result["output 0"][..., width:], inputs["q"][..., width:])


@every_form
def test_misaligned_tensors_give_the_same(device, interleaved, half_tables):
    options = {"interleaved": interleaved, "half_tables": half_tables}
    inputs = tensors(torch.bfloat16, device, 64, half_tables)
    wanted = rope(**inputs, **options)
    odd = {}
    for name, value in inputs.items():
        padded = value.new_zeros(*value.shape[:-1], value.shape[-1] + 1)
        padded[..., 1:] = value
        odd[name] = padded[..., 1:]
    assert all(map(torch.equal, rope(**odd, **options), wanted))


@every_form
def test_gradients_are_those_of_finite_differences(interleaved, half_tables):
    inputs = tensors(torch.float64, "cpu", 6, half_tables, 4, tokens=3)
    q, k, cos, sin = inputs.values()
    assert torch.autograd.gradcheck(
        lambda q, k: rope(q, k, cos, sin, 1, None, interleaved, half_tables),
        (q.requires_grad_(), k.requires_grad_()),
    )


# The models' own functions, called as the models call them. In float64 they are the truth.
def cohere(q, k, cos, sin):
    return modeling_cohere.apply_rotary_pos_emb(q, k, cos, sin)


def gptj(q, k, cos, sin):
    turn = modeling_gptj.apply_rotary_pos_emb
    return tuple(turn(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in (q, k))


def glm(q, k, cos, sin):
    return modeling_glm.apply_rotary_pos_emb(q, k, cos, sin)


def gpt_oss(q, k, cos, sin):
    return modeling_gpt_oss.apply_rotary_pos_emb(q, k, cos, sin)


NEIGHBOURS = {"interleaved": True}
MODELS = {
    "cohere": (cohere, partial(rope, **NEIGHBOURS), lambda a: a.repeat_interleave(2, -1), 64),
    "gptj": (gptj, partial(rope, **NEIGHBOURS, half_tables=True), lambda a: a, 64),
    "glm": (
        glm,
        lambda q, k, cos, sin: rope(
            q, k, cos[..., :16], sin[..., :16], **NEIGHBOURS, half_tables=True
        ),
        lambda a: a.repeat(1, 1, 2),
        32,
    ),
    "gpt_oss": (gpt_oss, liger_rotary_pos_emb_gpt_oss, lambda a: a, 64),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_what_the_model_does(device, model, dtype):
    theirs, ours, table, width = MODELS[model]
    angles = table(angles_of(different_batches(2, 9, device), width))
    inputs = {**heads(2, 6, 2, 9, 64, dtype, device), **as_tables(angles, dtype)}
    assert_as_exact_as_eager(
        ours,
        lambda q, k, cos, sin: widened(theirs)(q, k, cos, sin),
        inputs,
        ("q", "k"),
        eager=theirs,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [80, 72])
def test_it_is_what_towers_of_qwen_do(device, dtype, size):
    theirs = modeling_qwen2_vl.apply_rotary_pos_emb_vision
    angles = angles_of(torch.arange(14, device=device), size).repeat(1, 2)
    q, k = (torch.randn(14, 16, size, device=device).to(dtype) for _ in "qk")
    inputs = {"q": q, "k": k, **as_tables(angles, torch.float32)}
    result = assert_as_exact_as_eager(
        liger_rotary_pos_emb_vision,
        lambda q, k, cos, sin: widened(theirs)(q, k, cos, sin),
        inputs,
        ("q", "k"),
        eager=theirs,
    )
    batched = liger_rotary_pos_emb_vision(q[None], k[None], inputs["cos"], inputs["sin"])
    assert torch.equal(batched[1][0], result["output 1"])


def test_it_is_what_pixtral_does(device):
    angles = angles_of(torch.arange(14, device=device), 64).repeat(1, 2)
    inputs = heads(1, 16, 16, 14, 64, torch.bfloat16, device)
    inputs.update(as_tables(angles, torch.bfloat16))
    assert_as_exact_as_eager(
        partial(liger_rotary_pos_emb, unsqueeze_dim=0),
        partial(modeling_pixtral.apply_rotary_pos_emb, unsqueeze_dim=0),
        inputs,
        ("q", "k"),
    )
    many = as_tables(angles.expand(2, -1, -1), torch.bfloat16)
    assert_refused(lambda: rope(**(inputs | many), unsqueeze_dim=0), "rope", "unsqueeze_dim", "0")


@pytest.mark.parametrize("interleaved, half_tables", [(False, False), *FORMS])
@pytest.mark.parametrize("batch", [1, 2])
def test_positions_choose_rows_of_the_tables(device, batch, interleaved, half_tables):
    options = {"interleaved": interleaved, "half_tables": half_tables}
    inputs = heads(2, 6, 2, 9, 64, torch.bfloat16, device)
    angles = angles_of(torch.arange(40, device=device), 64)
    table = as_tables(angles if half_tables else angles.repeat(1, 2), torch.float32)
    ids = torch.randperm(40, device=device)[: 9 * batch].view(batch, 9)
    wanted = run(
        partial(rope, **options),
        {**inputs, **{name: value[ids] for name, value in table.items()}},
        ("q", "k"),
    )
    mine = run(partial(rope, position_ids=ids, **options), {**inputs, **table}, ("q", "k"))
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], value) for name, value in wanted.items())
    if batch == 1:
        found = rope(**inputs, **table, position_ids=ids[0], **options)
        assert torch.equal(found[1], mine["output 1"])


def test_under_ligers_name_positions_choose_rows_of_tables_without_a_batch(device):
    inputs = heads(2, 6, 2, 9, 64, torch.float32, device)
    table = as_tables(angles_of(torch.arange(40, device=device), 64).repeat(1, 2), torch.float32)
    ids = torch.arange(9, device=device).flip(0).unsqueeze(0)
    of_tokens = {name: value[ids] for name, value in table.items()}
    wanted = liger_rope(**inputs, **of_tokens)
    assert all(map(torch.equal, liger_rope(**inputs, **table, position_ids=ids), wanted))
    # Tables with a batch are those of the tokens already, as models pass them.
    assert all(map(torch.equal, liger_rope(**inputs, **of_tokens, position_ids=ids), wanted))


@pytest.mark.parametrize("heads_dim", [1, 2])
def test_under_ligers_name_longer_tables_serve_with_their_first_rows(device, heads_dim):
    long = tensors(torch.bfloat16, device, 64, False, tokens=12)
    q, k = (long[name][:, :, :9] for name in "qk")
    if heads_dim == 2:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    tables = [long[name] for name in ("cos", "sin")]
    wanted = liger_rope(q, k, *(table[:, :9] for table in tables), unsqueeze_dim=heads_dim)
    forms = [lambda t: t, lambda t: t.unsqueeze(1), lambda t: t.unsqueeze(2)]
    for form in forms:
        found = liger_rope(q, k, *map(form, tables), unsqueeze_dim=heads_dim)
        assert all(map(torch.equal, found, wanted))
    wanted = liger_rope(q, k, *(table[0, :9] for table in tables), unsqueeze_dim=heads_dim)
    found = liger_rope(q, k, *(table[0] for table in tables), unsqueeze_dim=heads_dim)
    assert all(map(torch.equal, found, wanted))


def test_under_ligers_name_longer_tables_with_a_batch_and_positions_are_refused(device):
    long = tensors(torch.float32, device, 64, False, tokens=12)
    q, k = (long[name][:, :, :9] for name in "qk")
    ids = torch.arange(3, 12, device=device)
    assert_refused(
        lambda: liger_rope(q, k, long["cos"], long["sin"], position_ids=ids), "cos", "12", "9"
    )


def test_a_rotary_dim_is_that_of_whole_or_half_tables(device):
    inputs = heads(2, 6, 2, 9, 64, torch.float32, device)
    angles = angles_of(torch.arange(9, device=device), 32).unsqueeze(0)
    whole, half = as_tables(angles.repeat(1, 1, 2), torch.float32), as_tables(angles, torch.float32)
    wanted = liger_rope(**inputs, **whole)
    for table in (whole, half):
        assert all(map(torch.equal, liger_rope(**inputs, **table, rotary_dim=32), wanted))
    assert_refused(lambda: liger_rope(**inputs, **whole, rotary_dim=8), "rotary_dim=8", "32")


@pytest.mark.parametrize("wrong", [-1, 40, 2**40])
def test_a_position_without_a_row_is_told_of(device, wrong):
    inputs = heads(2, 6, 2, 9, 64, torch.float32, device)
    table = as_tables(angles_of(torch.arange(40, device=device), 64).repeat(1, 2), torch.float32)
    ids = torch.arange(18, device=device).view(2, 9)
    ids[1, 4] = wrong

    def call():
        rope(**inputs, **table, position_ids=ids)
        liger_jit.check()

    assert_refused(call, "rope_by_position", "position_ids", "13", str(wrong), "39")


def test_errors_name_the_argument_and_its_value(device):
    q, k, cos, sin = tensors(torch.float32, device, 64, False, table_batch=1).values()
    wide = partial(rope, q, k, cos, sin, half_tables=True)
    assert_refused(wide, "rope", "cos", "64", "1 to 32")
    ids = torch.arange(9, device=device)
    table = cos[0], sin[0]
    assert_refused(lambda: rope(q, k, cos, sin, position_ids=ids), "position", "cos", "positions")
    assert_refused(lambda: rope(q, k, *table, position_ids=ids[:8]), "position_ids", "8", "9")
    assert_refused(lambda: rope(q, k, *table, position_ids=ids.int()), "position_ids", "int32|i32")
    none = cos[0, :0], sin[0, :0]
    assert_refused(lambda: rope(q, k, *none, position_ids=ids), "cos", "0, 64", "1 position")
    three = ids.expand(3, 9)
    assert_refused(lambda: rope(q, k, *table, position_ids=three), "position_ids", "3", "1 or 2")
    assert_refused(
        lambda: rope(q, k, *table, 3, ids), "rope_by_position", "unsqueeze_dim", "3", "1, 2"
    )
