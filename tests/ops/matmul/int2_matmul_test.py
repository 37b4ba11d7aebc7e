"""Products of int8 with weights of two bits: exact, whatever the sizes."""

import pytest
import torch
from accuracy import assert_refused
from liger_jit.functional import int2_matmul, pack_int2, unpack_int2
from liger_jit.transformers import experimental


def tensors(rows, quarter, columns, device):
    a = torch.randint(-128, 128, (rows, 4 * quarter), device=device, dtype=torch.int8)
    weights = torch.randint(-1, 3, (4 * quarter, columns), device=device, dtype=torch.int8)
    return a, weights


def product(a, weights):
    """Exact: float64 holds every sum."""
    return (a.double() @ weights.double()).int()


# One of each; no multiple of four anywhere; sizes beside those of tiles; several tiles each way.
@pytest.mark.parametrize("rows", [1, 3, 16, 65, 130])
@pytest.mark.parametrize("quarter", [1, 5, 32, 33, 100])
@pytest.mark.parametrize("columns", [1, 7, 64, 65, 132])
def test_every_size_is_exact(device, rows, quarter, columns):
    a, weights = tensors(rows, quarter, columns, device)
    assert torch.equal(int2_matmul(a, pack_int2(weights)), product(a, weights))


def test_the_largest_numbers_stay_exact(device):
    for number in (-128, 127):
        for weight in (-1, 2):
            a = torch.full((9, 4096), number, device=device, dtype=torch.int8)
            packed = pack_int2(torch.full((4096, 70), weight, device=device))
            assert (int2_matmul(a, packed) == 4096 * number * weight).all()


def test_nothing_times_nothing(device):
    a, weights = tensors(3, 2, 5, device)
    packed = pack_int2(weights)
    assert int2_matmul(a[:0], packed).shape == (0, 5)
    assert int2_matmul(a, packed[:, :0]).shape == (3, 0)
    assert not int2_matmul(a[:, :0], packed[:0]).any()


def test_views_are_read_right(device):
    a, weights = tensors(21, 12, 20, device)
    packed = pack_int2(weights)
    wanted = product(a, weights)
    shifted = torch.cat((a.new_zeros(1), a.flatten()))[1:].view(a.shape)
    assert torch.equal(int2_matmul(shifted, packed), wanted)
    assert torch.equal(int2_matmul(a.t().contiguous().t(), packed), wanted)
    assert torch.equal(int2_matmul(a, packed.t().contiguous().t()), wanted)


def test_weights_stand_in_a_byte_a_quarter_apart(device):
    weights = torch.tensor([[-1, 0], [2, 1], [0, 0], [1, -1]], device=device)
    # -1, 2, 0 and 1 are 0, 3, 1 and 2: from the lowest bits on.
    assert pack_int2(weights).tolist() == [[0b10011100, 0b00011001]]
    column = torch.tensor([0, 1, 2, -1, 0, 0, 0, 2], device=device)
    assert pack_int2(column).tolist() == [0b01011101, 0b11010010]


@pytest.mark.parametrize("shape", [(8,), (4, 3), (12, 2, 3), (5,), (7, 4), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float32])
def test_what_is_packed_comes_back(device, shape, dtype):
    weights = torch.randint(-1, 3, shape, device=device).to(dtype)
    copy = weights.clone()
    packed = pack_int2(weights)
    assert packed.dtype == torch.uint8 and packed.shape[0] == (shape[0] + 3) // 4
    back = unpack_int2(packed)
    assert back.dtype == torch.int32
    assert torch.equal(back[: shape[0]], weights.int())
    assert not back[shape[0] :].any()
    assert torch.equal(weights, copy)


def test_names_of_liger(device):
    a, weights = tensors(4, 6, 10, device)
    packed = experimental.pack_weights(weights, bits=2)
    assert torch.equal(experimental.unpack_weights(packed), weights.int())
    assert torch.equal(experimental.matmul(a, packed), product(a, weights))
    for function in (experimental.pack_weights, experimental.unpack_weights):
        assert_refused(lambda: function(packed, bits=4), "bits=4", "allowed: 2")  # noqa: B023


def test_a_compiled_product_has_no_breaks(device):
    a, weights = tensors(4, 6, 10, device)
    packed = pack_int2(weights)
    compiled = torch.compile(int2_matmul, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a, packed), product(a, weights))


def test_errors_name_the_argument_and_what_is_allowed(device):
    a, weights = tensors(4, 6, 10, device)
    packed = pack_int2(weights)
    assert_refused(lambda: int2_matmul(a.int(), packed), "int2_matmul", "'a'", "i32", "i8")
    assert_refused(lambda: int2_matmul(a, packed.char()), "'b'", "i8", "u8")
    assert_refused(lambda: int2_matmul(a[0], packed), "'a'", "2 dimensions")
    assert_refused(lambda: int2_matmul(a, packed[1:]), "'b'", r"\[5, 10\]", r"\[4, 24\]")
    assert_refused(lambda: unpack_int2(a), "unpack_int2", "'packed'", "int8", "uint8")
    assert_refused(lambda: pack_int2(a[0, 0]), "pack_int2", "'weights'", "no dimensions")
    if device == "cpu":
        for wrong in (-2, 3, 0.5):
            bad = torch.tensor([[0.0], [wrong]])
            assert_refused(lambda: pack_int2(bad), "pack_int2", "element 1", str(wrong))  # noqa: B023
