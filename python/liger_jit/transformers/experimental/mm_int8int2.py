"""Products of int8 with weights of two bits, under Liger Kernel's names."""

from ...functional import int2_matmul, pack_int2, unpack_int2


def matmul(a, b):
    """`functional.int2_matmul`."""
    return int2_matmul(a, b)


def pack_weights(intweights, bits=2):
    """`functional.pack_int2`; bits must be 2."""
    _require_two(bits, "pack_weights")
    return pack_int2(intweights)


def unpack_weights(packed, bits=2):
    """`functional.unpack_int2`; bits must be 2."""
    _require_two(bits, "unpack_weights")
    return unpack_int2(packed)


def _require_two(bits, function):
    if bits != 2:
        raise ValueError(f"{function}: bits={bits!r} is not supported; allowed: 2")
