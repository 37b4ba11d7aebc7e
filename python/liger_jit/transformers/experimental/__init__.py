"""What Liger Kernel calls experimental, under its names."""

from .embedding import LigerEmbedding
from .mm_int8int2 import matmul, pack_weights, unpack_weights

__all__ = ["LigerEmbedding", "matmul", "pack_weights", "unpack_weights"]
