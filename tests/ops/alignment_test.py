"""What a kernel is specialised for does not depend on the number of tokens."""

import pytest
import torch
from liger_jit import functional
from liger_jit.library import native
from liger_jit.warmup import prepare


def empty(*shape):
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta", requires_grad=True)


def norm(tokens):
    return functional.rms_norm(empty(2, tokens, 64), empty(64))


def rotated(tokens):
    table = empty(1, tokens, 64).detach()
    heads = (empty(2, tokens, count, 64).transpose(1, 2) for count in (4, 2))
    return functional.qk_norm_rope(*heads, empty(64), empty(64), table, table)[0]


def normed_whole(tokens):
    table = empty(1, tokens, 64).detach()
    heads = (empty(2, tokens, count, 64).transpose(1, 2) for count in (4, 2))
    return functional.full_qk_norm_rope(*heads, empty(256), empty(128), table, table)[0]


def kernels(call, tokens):
    prepare(lambda: call(tokens).sum().backward(), "sm_90a")
    native()._wait()
    return native()._prepared()


@pytest.mark.parametrize("call", [norm, rotated, normed_whole])
def test_an_odd_number_of_tokens_takes_the_same_kernels(call):
    """Statistics are one value a row: their strides hold up no wide load of the rows."""
    assert kernels(call, 5) == kernels(call, 8)


ROWS = {
    "rms_norm": lambda x: functional.rms_norm(x, empty(1001)),
    "layer_norm": lambda x: functional.layer_norm(x, empty(1001), empty(1001)),
    "swiglu": lambda x: functional.swiglu(x, x),
    "geglu": lambda x: functional.geglu(x, x),
    "fused_add_rms_norm": lambda x: functional.fused_add_rms_norm(x, x, empty(1001))[0],
    "fused_add_layer_norm": lambda x: functional.fused_add_layer_norm(
        x, x, empty(1001), empty(1001)
    )[0],
    "rms_norm_add": lambda x: functional.rms_norm_add(x, x, empty(1001)),
    "gated_rms_norm": lambda x: functional.gated_rms_norm(x, x, empty(1001)),
    "modulated_rms_norm": lambda x: functional.modulated_rms_norm(
        x, empty(1001), None, empty(1001)
    ),
    "layer_norm_add": lambda x: functional.layer_norm_add(x, x, empty(1001), empty(1001)),
}


@pytest.mark.parametrize("op", ROWS)
def test_rows_that_are_padded_take_the_kernels_of_rows_that_are_not(op):
    """A row of the output is not padded: its words are no wider than those of odd rows."""
    packed = kernels(lambda rows: ROWS[op](empty(rows, 1001)), 64)
    assert kernels(lambda rows: ROWS[op](empty(rows, 1008)[:, :1001]), 64) == packed
    assert kernels(lambda rows: ROWS[op](empty(1, 1001).expand(rows, 1001)), 64) == packed
