"""A table of embeddings as a module."""

import torch
from torch import nn

from ...functional import embedding


class LigerEmbedding(nn.Module):
    """`functional.embedding` of its weight, whose row padding_idx starts as zeros."""

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))
        if padding_idx is not None:
            with torch.no_grad():
                self.weight[padding_idx].fill_(0)

    def forward(self, indices):
        return embedding(self.weight, indices, self.padding_idx)
