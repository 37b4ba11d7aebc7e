"""Rotary embedding of tokens with three positions: against float64 and the models' own code."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import mrope, rope
from liger_jit.transformers.functional import liger_qwen2vl_mrope
from rotary_tables import angles_of, as_tables, heads


def merged(table, sections, interleaved=False):
    """The one table [batch, tokens, R] that each pair's axis gives."""
    half = table.shape[-1] // 2
    axis = torch.zeros(half, dtype=torch.long, device=table.device)
    if interleaved:
        for i in range(half):
            if i % 3 and i < 3 * sections[i % 3]:
                axis[i] = i % 3
    else:
        axis[sections[0] :] += 1
        axis[sections[0] + sections[1] :] += 1
    axis = axis.repeat(2)
    return table.gather(0, axis.expand(1, *table.shape[1:])).squeeze(0)


def reference(q, k, cos, sin, sections=(16, 24, 24), unsqueeze_dim=1, interleaved_sections=False):
    cos = merged(cos, sections, interleaved_sections).unsqueeze(unsqueeze_dim)
    sin = merged(sin, sections, interleaved_sections).unsqueeze(unsqueeze_dim)

    def turned(x):
        part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = part.chunk(2, dim=-1)
        across = torch.cat((-second, first), dim=-1)
        return torch.cat((part * cos + across * sin, rest), dim=-1).to(x.dtype)

    return turned(q), turned(k)


def tensors(dtype, device, size=128, width=None, batch=2, table_batch=2, tokens=9, q_heads=6):
    # Three positions that differ everywhere, so that a wrong axis is a wrong result.
    position = torch.arange(3 * table_batch * tokens, device=device)
    position = position.view(3, table_batch, tokens) * 7 % 101
    angles = angles_of(position, width or size).repeat(1, 1, 1, 2)
    return {**heads(batch, q_heads, 2, tokens, size, dtype, device), **as_tables(angles, dtype)}


def check(inputs, **options):
    return assert_as_exact_as_eager(
        partial(mrope, **options), partial(reference, **options), inputs, ("q", "k")
    )


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(tensors(dtype, device))


# (size, rotated, sections): Qwen2-VL's; ends inside a pack; an axis with none; the least; a part
# of a head; no vector fits
SECTIONS = [
    (128, 128, (16, 24, 24)),
    (64, 64, (10, 11, 11)),
    (64, 64, (0, 16, 16)),
    (64, 64, (32, 0, 0)),
    (2, 2, (0, 0, 1)),
    (256, 64, (11, 11, 10)),
    (80, 20, (4, 3, 3)),
    (6, 6, (1, 1, 1)),
]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size, width, sections", SECTIONS)
def test_every_division_of_a_head_is_as_exact_as_eager(device, size, width, sections, interleaved):
    inputs = tensors(torch.bfloat16, device, size, width)
    result = check(inputs, sections=sections, interleaved_sections=interleaved)
    assert torch.equal(result["output 0"][..., width:], inputs["q"][..., width:])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("sections", [(16, 24, 24), (24, 20, 20), (22, 22, 20)])
def test_the_bits_are_those_of_a_rotation_by_the_merged_table(device, sections, interleaved):
    inputs = tensors(torch.bfloat16, device)
    mine = run(partial(mrope, sections=sections, interleaved_sections=interleaved), inputs, "qk")
    table = {name: merged(inputs[name], sections, interleaved) for name in ("cos", "sin")}
    wanted = run(rope, {**inputs, **table}, "qk")
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    "model, sections", [("qwen2_vl", [16, 24, 24]), ("qwen2_5_vl", [20, 22, 22])]
)
def test_it_is_what_qwen2_vl_does(device, model, sections):
    assert_it_is_what_the_model_does(device, model, sections, "RotaryEmbedding", False)


@pytest.mark.parametrize(
    "model, sections", [("qwen3_vl", [24, 20, 20]), ("qwen3_vl", [22, 22, 20])]
)
def test_interleaved_sections_are_those_of_qwen3_vl(device, model, sections):
    assert_it_is_what_the_model_does(device, model, sections, "TextRotaryEmbedding", True)


def assert_it_is_what_the_model_does(device, model, sections, name, interleaved):
    """The model's own embedding merges the axes; ours is given them apart."""
    module = __import__(f"transformers.models.{model}.modeling_{model}", fromlist=["x"])
    (embedding,) = (
        value
        for key, value in vars(module).items()
        if key.endswith(f"VL{name}") and "Vision" not in key
    )
    module_of_model = embedding.__new__(embedding)
    torch.nn.Module.__init__(module_of_model)
    module_of_model.mrope_section = sections
    inputs = tensors(torch.float32, device)
    q, k, cos, sin = inputs.values()
    recompose = module_of_model.recomposition_frequencies
    theirs = [recompose(table[..., :64].clone()) for table in (cos, sin)]
    wanted = module.apply_rotary_pos_emb(q, k, *theirs)
    mine = mrope(q, k, cos, sin, sections, interleaved_sections=interleaved)
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_heads_in_the_second_dimension_or_the_third_give_the_same(device):
    q, k, cos, sin = tensors(torch.bfloat16, device, table_batch=1).values()
    wanted = mrope(q, k, cos, sin)
    found = mrope(q.transpose(1, 2), k.transpose(1, 2), cos, sin, unsqueeze_dim=2)
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one, other.transpose(1, 2))


@pytest.mark.parametrize("sections", [[16, 24, 24], [16, 24], (16, 24)])
def test_under_ligers_name_the_last_section_may_be_left_out(device, sections):
    q, k, cos, sin = tensors(torch.bfloat16, device, table_batch=1).values()
    found = liger_qwen2vl_mrope(q, k, cos, sin, sections)
    assert all(map(torch.equal, found, mrope(q, k, cos, sin)))


def test_queries_alone_and_no_tokens(device):
    q, k, cos, sin = tensors(torch.float32, device).values()
    alone, none = mrope(q, None, cos, sin)
    assert none is None and torch.equal(alone, mrope(q, k, cos, sin)[0])
    empty = mrope(q[:, :, :0], k[:, :, :0], cos[:, :, :0], sin[:, :, :0])
    assert empty[1].shape == (2, 2, 0, 128)


def test_views_of_a_packed_projection_and_odd_alignments_are_read_in_place(device):
    inputs = tensors(torch.bfloat16, device)
    wanted = mrope(**inputs)
    packed = torch.cat([inputs[name].transpose(1, 2).flatten(2) for name in "qk"], dim=-1)
    q, k = packed.split((6 * 128, 2 * 128), dim=-1)
    views = {
        "q": q.view(2, 9, 6, 128).transpose(1, 2),
        "k": k.view(2, 9, 2, 128).transpose(1, 2),
    }
    for name in ("cos", "sin"):
        padded = inputs[name].new_zeros(3, 2, 9, 129)
        padded[..., 1:] = inputs[name]
        views[name] = padded[..., 1:]
    assert all(map(torch.equal, mrope(**views), wanted))


def test_errors_name_the_argument_and_its_value(device):
    q, k, cos, sin = tensors(torch.float32, device).values()
    assert_refused(lambda: mrope(q, k, cos, sin, (16, 24)), "mrope", "sections", r"\(16, 24\)")
    assert_refused(lambda: mrope(q, k, cos, sin, (16, 24, 23)), "mrope", "width", "23", "24", "64")
    assert_refused(lambda: mrope(q, k, cos, sin, (16, 50, 24)), "mrope", "height", "50", "48")
    assert_refused(lambda: mrope(q, k, cos, sin, (-1, 41, 24)), "mrope", "temporal", "-1", "64")
    assert_refused(lambda: mrope(q, k, cos, sin, unsqueeze_dim=3), "unsqueeze_dim", "3", "1, 2")
    assert_refused(lambda: mrope(q, k, cos[0], sin[0]), "mrope", "cos", "batch")
    assert_refused(lambda: mrope(q, k, cos[:2], sin[:2]), "mrope", "cos", "2", "3 axes")
    assert_refused(lambda: mrope(q, k, cos[:, :, :8], sin[:, :, :8]), "mrope", "cos", "8", "9")
    three = cos[:, :1].expand(-1, 3, -1, -1)
    assert_refused(lambda: mrope(q, k, three, three), "mrope", "cos", "batch 3", "1 or 2")
    asked = cos.clone().requires_grad_()
    assert_refused(lambda: mrope(q, k, asked, sin), "mrope", "cos", "detach")
