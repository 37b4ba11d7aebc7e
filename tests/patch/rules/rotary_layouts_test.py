"""Rotations of heads and tables in other layouts than batches of heads under tables of batches."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from every_model import CLASSES, small_model
from liger_jit.patch import patch
from liger_jit.patch.rules import rotary_rows
from liger_jit.patch.rules.rope import RotaryFunction, layouts_of
from liger_jit.patch.rules.rotary_form import FORMS, USUAL
from liger_jit.patch.rules.rotary_layouts import Layouts
from memory_order_test import order, permutations
from model_inputs import inputs_of
from rotary_forms_test import WANTED, assert_alike, of_file, of_one_or_two, vision
from tiny_models import assert_same_step, counted, loss_and_gradients
from torch import nn
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama

usual = modeling_llama.apply_rotary_pos_emb
partly = modeling_glm.apply_rotary_pos_emb
# What brings in a class of the installed transformers that calls it so.
TYPES = {"mistral3": "mistral3", "kimi_k25": "kimi_k25", "zaya": "zaya", "qwen4": "qwen4_exp_text"}


def function_of(original, form=USUAL, pair=True):
    function = RotaryFunction("rotate", original, pair, form)
    return replace(function, layouts=layouts_of(function, 16))


def replacement_of(function):
    """As a module calls it that is not patched."""
    return partial(function.replacement, nn.Module(), function.original)


def results(function, heads, *given, **named):
    """What it gives for heads, and their gradients."""
    turned = function(*heads, *given, **named)
    turned = turned if isinstance(turned, tuple) else (turned,)
    total = sum((y.float() * (i + 1)).sin().sum() for i, y in enumerate(turned))
    return [*turned, *torch.autograd.grad(total, heads)]


def heads_of(leading, unsqueeze_dim, dtype=torch.float32, counts=(4, 2)):
    for count in counts:
        shape = (count, 7) if unsqueeze_dim == 0 else (7, count)
        yield torch.randn(*leading, *shape, 16, dtype=dtype).requires_grad_()


def tables_of(*shape, dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("file", WANTED, ids=lambda file: file.__name__.rpartition("modeling_")[2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_of_one_sequence_turn_those_of_all(file, dtype, monkeypatch):
    original, form = of_file(file), WANTED[file]
    function = function_of(original, form)
    tables = tables_of(7, 16 // form.table_parts, dtype=dtype)
    if not function.layouts.shared:
        with pytest.raises(ValueError, match="unpack"):
            original(*heads_of((), 0), *tables, unsqueeze_dim=0)
        pytest.skip("this release's takes heads of four dimensions alone")
    for leading, unsqueeze_dim in itertools.product(((2,), (1,), ()), (0, 1)):
        heads = list(heads_of(leading, unsqueeze_dim, dtype))
        with counted(monkeypatch) as calls:
            rotate = replacement_of(function)
            found = results(rotate, heads, *tables, unsqueeze_dim=unsqueeze_dim)
        assert calls["rope"] == 1
        assert_alike(found, results(original, heads, *tables, unsqueeze_dim=unsqueeze_dim), dtype)


@pytest.mark.parametrize("unsqueeze_dim", [0, 1])
def test_results_under_such_tables_lie_in_memory_as_eagers(unsqueeze_dim, monkeypatch):
    rotate, tables = replacement_of(function_of(usual)), tables_of(5, 8)
    for leading in ((2,), ()):
        shapes = [(*leading, *((n, 5) if unsqueeze_dim == 0 else (5, n)), 8) for n in (4, 3)]
        with counted(monkeypatch) as calls:
            for q, k in zip(*(permutations(*one) for one in shapes), strict=True):
                found, expected = (one(q, k, *tables, unsqueeze_dim) for one in (rotate, usual))
                for mine, own in zip(found, expected, strict=True):
                    torch.testing.assert_close(mine, own)
                    assert order(mine) == order(own), q.stride()
        assert calls["rope"] == (6 if leading else 2)  # where the last dim lies innermost


def test_what_does_not_go_with_them_goes_to_the_function_itself(monkeypatch):
    rotate, (cos, sin) = replacement_of(function_of(usual)), tables_of(7, 16)
    q, k = torch.randn(2, 4, 7, 16), torch.randn(2, 2, 7, 16)
    with counted(monkeypatch) as calls:
        rotate(q, k, cos.requires_grad_(), sin, 0)
        rotate(q, q, torch.randn(7, 1), torch.randn(7, 1), 0)
        rotate(q, k.double(), cos.detach(), sin, 0)
        with pytest.raises(RuntimeError):
            rotate(q, k, cos.detach()[:3], sin[:3], 0)
    assert not calls["rope"]


def of_sequences(q, k, cos, sin, unsqueeze_dim=1):
    """Has tables of one sequence for other angles."""
    if cos.dim() == 2:
        sin = -sin
    return usual(q, k, cos, sin, unsqueeze_dim)


def test_a_function_of_other_values_there_keeps_them(monkeypatch):
    function = function_of(of_sequences)
    assert not function.layouts.shared
    heads, tables = [torch.randn(2, 4, 7, 16)] * 2, tables_of(7, 16)
    with counted(monkeypatch) as calls:
        found = replacement_of(function)(*heads, *tables, 0)
    assert not calls["rope"]
    assert all(map(torch.equal, found, of_sequences(*heads, *tables, 0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_function_of_rows_takes_several_sequences(dtype, monkeypatch):
    assert rotary_rows.takes_batches(vision, 16)
    function = RotaryFunction("r", vision, True, rows=True, layouts=Layouts(shared=True))
    tables = tables_of(7, 16)
    for leading in ((2,), (1,), ()):
        heads = list(heads_of(leading, 1, dtype))
        with counted(monkeypatch) as calls:
            found = results(replacement_of(function), heads, *tables)
        assert calls["rope"] == 1
        assert_alike(found, results(vision, heads, *tables), dtype)


def test_a_function_of_rows_alone_keeps_several_sequences(monkeypatch):
    def rows_alone(q, k, cos, sin):
        return vision(q, k, cos, sin if q.dim() == 3 else -sin)

    rotary_rows.check_formula(rows_alone, 16, ())
    assert not rotary_rows.takes_batches(rows_alone, 16)
    x, table = torch.randn(2, 7, 4, 16), torch.randn(7, 16)
    with counted(monkeypatch) as calls:
        replacement_of(RotaryFunction("r", rows_alone, True, rows=True))(x, x, table, table)
    assert not calls["rope"]


@pytest.mark.parametrize("leading", [(2,), ()])
def test_queries_are_turned_alone(leading, monkeypatch):
    function = function_of(of_one_or_two)
    assert function.layouts == Layouts(shared=True, alone=True)
    (q,) = heads_of(leading, 1, counts=(4,))
    cos, sin = tables_of(*leading, 7, 16)
    named = {"cos": cos, "sin": sin, "unsqueeze_dim": 1 + len(leading)}
    with counted(monkeypatch) as calls:
        found = results(replacement_of(function), [q], **named)
    assert calls["rope"] == 1
    assert_alike(found, results(of_one_or_two, [q], **named), torch.float32)


def test_what_else_is_done_without_keys_is_the_functions_own():
    def both(q, k=None, cos=None, sin=None, unsqueeze_dim=1):
        return usual(q, q if k is None else k, cos, sin, unsqueeze_dim)

    def backwards(q, k=None, cos=None, sin=None, unsqueeze_dim=1):
        return usual(q, q, cos, -sin, unsqueeze_dim)[0] if k is None else usual(q, k, cos, sin)

    def first(q, k="", cos=None, sin=None, unsqueeze_dim=1):
        return usual(q, k, cos, sin, unsqueeze_dim) if isinstance(k, torch.Tensor) else q

    assert not any(function_of(one).layouts.alone for one in (both, backwards, first, usual))


@pytest.mark.parametrize("width", [16, 8])
def test_columns_become_rows_where_the_functions_results_are(width, monkeypatch):
    function = function_of(partly, FORMS[2])
    assert function.layouts.columns
    heads = [torch.randn(2, n, 16, 7).transpose(2, 3).requires_grad_() for n in (4, 2)]
    tables = tables_of(2, 7, width)
    with counted(monkeypatch) as calls:
        found = results(replacement_of(function), heads, *tables)
    assert calls["rope"] == 1
    expected = results(partly, heads, *tables)
    assert_alike(found[:2], expected[:2], torch.float32)
    for mine, own in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(mine, own)


def test_columns_stay_with_a_function_that_keeps_them(monkeypatch):
    function = function_of(usual)
    assert not function.layouts.columns
    q, k = (torch.randn(2, n, 16, 7).transpose(2, 3) for n in (4, 2))
    with counted(monkeypatch) as calls:
        found = replacement_of(function)(q, k, *tables_of(2, 7, 16))
    assert not calls["rope"] and found[0].stride() == q.stride()


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_models_that_call_it_so_have_no_rotation_of_their_own(kind):
    names = [name for one, name in CLASSES if one == kind]
    if not names:
        pytest.skip("a later transformers has it")
    model, _ = small_model(kind, names[0])
    inputs = inputs_of(model)
    expected = loss_and_gradients(model, **inputs)
    handle = patch(model)
    assert_same_step(loss_and_gradients(model, **inputs), expected)
    rows = [row for row in handle.report() if row.patched and row.role == "rope"]
    assert rows and not any(row.own_calls for row in rows)
