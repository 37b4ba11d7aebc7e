"""Experts that may be spread over ranks, whose weights the caller has."""

import torch
from torch import nn

from ..functional.expert_parallel import expert_parallel


class LigerExpertParallelFusedMoe(nn.Module):
    """`functional.experts` with SiLU; with a group each of its ranks has a share of the experts.

    It has no weights. process_group: a group of torch.distributed, or None for this process alone.
    """

    def __init__(self, process_group=None):
        super().__init__()
        self.process_group = process_group

    def forward(
        self, hidden_states, expert_indices, expert_weights, all_B, all_C, all_A, num_experts
    ):
        """hidden_states: [..., H]; expert_indices, expert_weights: [..., K], of all experts.

        all_B (gate) and all_C (up): [E, I, H]; all_A (down): [E, H, I], this rank's. num_experts:
        of all ranks together. Returns [..., H].
        """
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        slots = expert_indices.shape[-1]
        y = expert_parallel(
            x,
            expert_indices.reshape(-1, slots),
            expert_weights.reshape(-1, slots),
            torch.cat((all_B, all_C), dim=1),
            all_A,
            num_experts,
            self.process_group,
        )
        return y.view(hidden_states.shape)
