"""Rows of a table and the gradient of the table, against float64 and in every bit again."""

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import DTYPES, assert_as_exact_as_eager, assert_refused, dtypes_of, strided_forms
from liger_jit.functional import embedding
from liger_jit.library import native
from liger_jit.transformers.experimental import LigerEmbedding


def reference(weight, indices, padding_idx=None):
    return torch_functional.embedding(indices, weight, padding_idx)


def tensors(rows, size, shape, dtype, device):
    return {
        "weight": torch.randn(rows, size, device=device).to(dtype),
        "indices": torch.randint(rows, shape, device=device),
    }


def gradient(weight, indices, dy, padding_idx=None):
    weight = weight.detach().requires_grad_()
    embedding(weight, indices, padding_idx).backward(dy)
    return weight.grad


def gradient_in_float64(rows, indices, dy):
    flat = dy.double().reshape(-1, dy.shape[-1])
    empty = torch.zeros(rows, dy.shape[-1], dtype=torch.float64, device=dy.device)
    return empty.index_add_(0, indices.reshape(-1).long(), flat)


# 1 and 7: no vector load fits; 129: one over a power of two; 1023, 1025: ragged; 9000: a row is
# longer than a thousand packs; 20000: longer than registers hold.
@pytest.mark.parametrize("size", [1, 7, 64, 129, 1023, 1025, 4096, 9000, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size):
    inputs = tensors(23, size, (3, 11), torch.bfloat16, device)
    assert_as_exact_as_eager(embedding, reference, inputs, ["weight"])


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        inputs = tensors(33, 129, (50,), dtype, device)
        assert_as_exact_as_eager(embedding, reference, inputs, ["weight"])


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 3, 4, 5)])
def test_indices_have_any_shape(device, shape):
    inputs = tensors(19, 24, shape, torch.float32, device)
    y = embedding(**inputs)
    assert y.shape == (*shape, 24)
    assert torch.equal(y, reference(**inputs))
    dy = torch.randn_like(y)
    wanted = gradient_in_float64(19, inputs["indices"], dy)
    torch.testing.assert_close(gradient(**inputs, dy=dy), wanted.float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_copied_bit_for_bit(device, dtype):
    inputs = tensors(64, 200, (128,), dtype, device)
    inputs["weight"][3] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-7] * 50).to(dtype)
    as_bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(embedding(**inputs).view(as_bits), reference(**inputs).view(as_bits))


# Sums of small whole numbers are exact in any order, so any token lost, doubled or misplaced shows.
# 1024 tokens are one list of a GPU's; a run of 32 is a long one.
@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("rows", [1, 2, 40, 3000])
def test_each_token_is_added_once(device, tokens, rows):
    weight = torch.zeros(rows, 40, device=device)
    indices = torch.randint(rows, (tokens,), device=device)
    dy = torch.randint(-8, 9, (tokens, 40), device=device).float()
    assert torch.equal(
        gradient(weight, indices, dy).double(), gradient_in_float64(rows, indices, dy)
    )


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
@pytest.mark.parametrize("size", [40, 1032])
def test_one_id_in_many_places(device, share, size):
    indices = torch.randint(500, (4500,), device=device)
    indices = indices.masked_fill(torch.rand(4500, device=device) < share, 7)
    dy = torch.randint(-8, 9, (4500, size), device=device).bfloat16()
    mine = gradient(torch.zeros(500, size, device=device).bfloat16(), indices, dy)
    assert torch.equal(mine, gradient_in_float64(500, indices, dy).bfloat16())


def test_a_sum_of_many_halves_is_rounded_once(device):
    dy = torch.full((4096, 8), 1.0, device=device).bfloat16()
    dy[0] = 256.0  # to which no bfloat16 1 can be added
    mine = gradient(torch.zeros(3, 8, device=device).bfloat16(), dy.new_zeros(4096).long(), dy)
    assert torch.equal(mine[0], torch.full((8,), 4351.0, device=device).bfloat16())
    assert not mine[1:].any()


def test_the_row_of_padding_has_no_gradient(device):
    inputs = tensors(20, 33, (6, 50), torch.float32, device)
    for padding_idx in (0, 7, 19, -1, -20):
        assert_as_exact_as_eager(
            lambda weight, indices: embedding(weight, indices, padding_idx),  # noqa: B023
            lambda weight, indices: reference(weight, indices, padding_idx),  # noqa: B023
            inputs,
            ["weight"],
        )
        dy = torch.randn(6, 50, 33, device=device)
        assert not gradient(**inputs, dy=dy, padding_idx=padding_idx)[padding_idx].any()


def test_indices_of_32_bits_give_the_same(device):
    inputs = tensors(300, 48, (7, 9), torch.bfloat16, device)
    dy = torch.randn(7, 9, 48, device=device).bfloat16()
    short = {**inputs, "indices": inputs["indices"].int()}
    assert torch.equal(embedding(**short), embedding(**inputs))
    assert torch.equal(gradient(**short, dy=dy), gradient(**inputs, dy=dy))


def test_a_table_of_more_ids_than_short_keys_hold(device):
    rows = (1 << 22) + 5
    indices = torch.tensor([0, rows - 1, 7, rows - 1, 1 << 21], device=device)
    dy = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]], device=device)
    mine = gradient(torch.zeros(rows, 1, device=device), indices, dy)
    assert mine.count_nonzero() == 4
    assert mine[indices].flatten().tolist() == [1.0, 10.0, 4.0, 10.0, 16.0]


def test_tables_and_gradients_of_any_strides(device):
    indices = torch.randint(12, (40,), device=device)
    table = torch.randn(12, 40, device=device).bfloat16()
    wanted = embedding(table, indices)
    for name, view in strided_forms(table):
        assert torch.equal(embedding(view, indices), wanted), name
    dy = torch.randn(40, 40, device=device).bfloat16()
    of_plain = gradient(table, indices, dy)
    for name, view in strided_forms(dy):
        assert torch.equal(gradient(table, indices, view), of_plain), name


def test_an_index_outside_is_told_with_its_place_and_value(device):
    for bad in (5, -1):
        indices = torch.tensor([[0, 4], [bad, 3]], device=device)

        def call(indices=indices):
            y = embedding(torch.zeros(5, 8, device=device), indices)
            if device == "cuda":
                torch.cuda.synchronize()
                assert y[1, 0].isnan().all() and not y[0].any()
                native()._check()

        assert_refused(call, "embedding", "element 2 of argument 'indices'", f"is {bad}", "0 to 4")


def test_errors_name_the_argument_and_what_is_allowed(device):
    table = torch.zeros(5, 8, device=device)
    indices = torch.zeros(3, dtype=torch.long, device=device)
    assert_refused(lambda: embedding(table[0], indices), "embedding", "'weight'", r"2 dimensions")
    assert_refused(lambda: embedding(table, indices.float()), "'indices'", "f32", "i64, i32")
    assert_refused(lambda: embedding(table.long(), indices), "'weight'", "i64", "float32")
    for padding_idx in (5, -6):
        assert_refused(
            lambda: embedding(table, indices, padding_idx),  # noqa: B023
            "embedding",
            f"'padding_idx' is {padding_idx}",
            "-5 to 4",
        )


def test_too_many_indices_for_a_gpu_are_refused(cuda):
    table = torch.zeros(5, 1, device=cuda)
    many = torch.zeros((1 << 21) + 1, dtype=torch.long, device=cuda)
    assert_refused(lambda: embedding(table, many), "'indices'", "2097153", "up to 2097152")


def test_the_module_is_that_of_torch(device):
    mine = LigerEmbedding(30, 16, padding_idx=3).to(device)
    assert not mine.weight[3].any() and mine.weight[2].any()
    theirs = torch.nn.Embedding(30, 16, padding_idx=3).to(device)
    mine.load_state_dict(theirs.state_dict())
    indices = torch.randint(30, (4, 25), device=device)
    for module in (mine, theirs):
        module(indices).square().sum().backward()
    assert torch.equal(mine(indices), theirs(indices))
    torch.testing.assert_close(mine.weight.grad, theirs.weight.grad)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(indices), mine(indices))
