"""What Liger Kernel calls experimental, under its names."""

from .embedding import LigerEmbedding

__all__ = ["LigerEmbedding"]
