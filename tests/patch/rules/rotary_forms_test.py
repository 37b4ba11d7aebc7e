"""Rotary functions of other forms than Llama's, found by what they compute."""

from functools import partial

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.rope import RotaryFunction, check_form, parameter_names
from liger_jit.patch.rules.rotary_form import FORMS, USUAL
from liger_jit.patch.rules.rotary_rows import check_formula
from tiny_models import assert_same_step, build, counted, error, loss_and_gradients
from torch import nn
from transformers.models.cohere import modeling_cohere
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.glm4 import modeling_glm4
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_vl import modeling_qwen2_vl

WANTED = {
    modeling_llama: USUAL,
    modeling_cohere: FORMS[1],
    modeling_glm4: FORMS[2],
    modeling_gpt_oss: FORMS[3],
    modeling_deepseek_v3: FORMS[5],
}
vision = modeling_qwen2_vl.apply_rotary_pos_emb_vision


def of_file(file):
    name = "apply_rotary_pos_emb"
    return getattr(file, f"{name}_interleave" if file is modeling_deepseek_v3 else name)


def forms_of(original):
    found = []
    for form in FORMS:
        try:
            check_form(RotaryFunction("rotate", original, True, form), 16)
        except Mismatch:
            continue
        found.append(form)
    return found


def replacement_of(original, form=USUAL, rows=False):
    """As a module calls it that is not patched."""
    function = RotaryFunction("rotate", original, True, form, rows=rows)
    return partial(function.replacement, nn.Module(), function.original)


def assert_alike(found, expected, dtype):
    """Eager arithmetic of 16 bits rounds more often."""
    for mine, own in zip(found, expected, strict=True):
        assert mine.dtype == own.dtype and mine.stride() == own.stride()
        assert error(mine, own) <= (1e-5 if dtype is torch.float32 else 2e-2)


@pytest.mark.parametrize("file", WANTED, ids=lambda file: file.__name__.rpartition("modeling_")[2])
def test_each_function_has_one_form(file):
    assert forms_of(of_file(file)) == [WANTED[file]]


@pytest.mark.parametrize("file", WANTED, ids=lambda file: file.__name__.rpartition("modeling_")[2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_replacement_is_the_function(file, dtype, monkeypatch):
    original, form = of_file(file), WANTED[file]
    replacement = replacement_of(original, form)
    q, k = (torch.randn(2, heads, 7, 16, dtype=dtype).requires_grad_() for heads in (4, 2))
    tables = [torch.randn(2, 7, 16 // form.table_parts).to(dtype) for _ in range(2)]

    def step(function):
        results = function(q, k, *tables)
        total = sum((y.float() * (i + 1)).sin().sum() for i, y in enumerate(results))
        return [*results, *torch.autograd.grad(total, (q, k))]

    with counted(monkeypatch) as calls:
        found = step(replacement)
    assert calls["rope"] == 1
    assert_alike(found, step(original), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_one_sequence(dtype, monkeypatch):
    assert parameter_names(vision) == ("q", "k", "cos", "sin")
    check_formula(vision, 16, (8,))
    # As towers make them: parts of one projection, under tables in float32.
    qkv = torch.randn(9, 3, 4, 16, dtype=dtype).requires_grad_()
    tables = [torch.randn(9, 16) for _ in range(2)]

    def step(function):
        q, k, _ = qkv.permute(1, 0, 2, 3).unbind(0)
        results = function(q, k, *tables)
        return [*results, *torch.autograd.grad(sum(y.float().sin().sum() for y in results), qkv)]

    with counted(monkeypatch) as calls:
        found = step(replacement_of(vision, rows=True))
    assert calls["rope"] == 1
    assert_alike(found, step(vision), dtype)


def test_other_heads_go_to_the_function_itself(monkeypatch):
    replacement = replacement_of(vision, rows=True)
    x, table = torch.randn(9, 4, 16), torch.randn(9, 16)
    with counted(monkeypatch) as calls:
        replacement(x[None], x[None], table[None], table[None])
        replacement(x.double(), x.double(), table, table)
        replacement(x, x, table.requires_grad_(), table)
    assert not calls["rope"]


@pytest.mark.parametrize(
    "of_heads, of_tables", [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_autocast_leaves_float64_to_the_function(of_heads, of_tables, monkeypatch):
    original = of_file(modeling_llama)
    x, table = torch.randn(2, 4, 7, 16, dtype=of_heads), torch.randn(2, 7, 16, dtype=of_tables)
    with torch.autocast("cpu", torch.bfloat16), counted(monkeypatch) as calls:
        found, expected = (f(x, x, table, table) for f in (replacement_of(original), original))
    assert not calls["rope"]
    assert all(map(torch.equal, found, expected))


def test_another_formula_is_not_taken_for_it():
    def rounded(q, k, cos, sin):
        return vision(q, k, cos.bfloat16(), sin.bfloat16())

    with pytest.raises(Mismatch, match="rotating 16"):
        check_formula(rounded, 16, ())


def of_one_or_two(q, k=None, cos=None, sin=None, unsqueeze_dim=1):
    """As of files whose indexers rotate queries alone."""
    if k is None:
        return modeling_llama.apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim)[0]
    return modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


def test_keys_may_be_left_out(monkeypatch):
    assert forms_of(of_one_or_two) == [USUAL]
    replacement = replacement_of(of_one_or_two)
    q, table = torch.randn(2, 4, 7, 16), torch.randn(2, 7, 16)
    with counted(monkeypatch) as calls:
        alone = replacement(q, cos=table, sin=table, unsqueeze_dim=1)
        assert not calls["rope"]  # what it does without keys was not proved
        both = replacement(q, q, cos=table, sin=table)
    assert calls["rope"] == 1
    assert torch.equal(alone, of_one_or_two(q, cos=table, sin=table))
    assert_alike(both, of_one_or_two(q, q, table, table), torch.float32)


def test_a_table_of_an_odd_size_goes_to_the_function_itself(monkeypatch):
    rotate = modeling_gpt_neox.apply_rotary_pos_emb  # of a part of each head
    q, table = torch.randn(2, 4, 7, 16), torch.randn(2, 7, 3)
    with counted(monkeypatch) as calls:
        found = replacement_of(rotate)(q, q, table, table)
    assert not calls["rope"]
    for mine, own in zip(found, rotate(q, q, table, table), strict=True):
        assert torch.equal(mine, own)


class Doubling(torch.Tensor):
    """What is multiplied by it counts twice."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            plain = [x.as_subclass(torch.Tensor) if isinstance(x, cls) else x for x in args]
            result = function(*plain, **(kwargs or {}))
        if function.__name__ in ("mul", "__mul__", "__rmul__"):
            return result * 2
        return result.as_subclass(cls) if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("table", [0, 1])
def test_tables_of_a_class_of_their_own_are_left_to_the_model(family, table):
    model = build(family)

    def replaced(module, inputs, tables):
        tables = list(tables)
        tables[table] = tables[table].as_subclass(Doubling)
        return tuple(tables)

    model.model.rotary_emb.register_forward_hook(replaced)
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


def tables_in_float32(rotary):
    rotary.register_forward_hook(lambda _, inputs, tables: tuple(one.float() for one in tables))


def rows_of_rotations(handle):
    return [row for row in handle.report() if row.role == "rope"]


def test_tables_in_float32_turn_heads_of_16_bits_where_the_function_gives_their_dtype(monkeypatch):
    """As OLMo 2's, whose tables are always of float32."""
    model = build("Olmo2", torch.bfloat16)
    expected = loss_and_gradients(model)
    handle = patch(model, rms_norm=False)  # else its norms and the rotation are one
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected, 5e-2)
    rows = rows_of_rotations(handle)
    assert calls["rope"] == len(rows) > 0
    assert not any(row.own_calls for row in rows)


def test_calls_of_the_function_itself_are_told(monkeypatch):
    """Llama's gives the wider dtype."""
    model = build()
    handle = patch(model)
    tables_in_float32(model.model.rotary_emb)
    model.bfloat16()
    with counted(monkeypatch) as calls, pytest.raises(RuntimeError, match="dtype"):
        loss_and_gradients(model)
    assert not calls["rope"]
    row = rows_of_rotations(handle)[0]
    assert row.own_calls == 1 and "apply_rotary_pos_emb was called" in row.why
