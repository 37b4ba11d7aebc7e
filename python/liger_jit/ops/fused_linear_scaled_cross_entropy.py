"""Losses and entropies of tokens behind a linear layer, as trainers of policies import them."""

import torch

from ..functional import linear_log_probs


class LigerFusedLinearScaledCrossEntropyFunction:
    """`functional.linear_log_probs` in Liger Kernel's order."""

    @staticmethod
    def apply(
        _input,
        weight,
        target,
        temperature=1.0,
        ignore_index=-100,
        m_tiles_per_cluster=1,
        return_entropy=False,
        selected_token_ids=None,
    ):
        """-log p[target] of each token, p = softmax(_input @ weight.T / temperature).

        Args:
            _input: [M, H]. weight: [V, H]. target: [M] int64.
            m_tiles_per_cluster: does nothing.
            selected_token_ids: [K] int64, classes whose log-probabilities are wanted of each token.

        Returns:
            nll [M]; with return_entropy also entropy [M], with selected_token_ids also their
            log-probabilities [M, K]. All float32, differentiable, 0 where the target is ignored.
        """
        log_probs, entropy = linear_log_probs(
            _input, weight, target, temperature=temperature, ignore_index=ignore_index
        )
        outputs = (-log_probs,)
        if return_entropy:
            outputs += (entropy,)
        if selected_token_ids is not None:
            wide = torch.promote_types(_input.dtype, torch.float32)
            # Of an ignored token any class: its row is zeroed.
            chosen = weight[target.clamp(0, weight.shape[0] - 1)].to(wide)
            states = _input.to(wide)
            scores = states @ weight[selected_token_ids].to(wide).t()
            of_target = (states * chosen).sum(-1, keepdim=True)
            selected = log_probs.unsqueeze(1) + (scores - of_target) / temperature
            counted = (target != ignore_index).unsqueeze(1)
            outputs += (torch.where(counted, selected, 0),)
        return outputs[0] if len(outputs) == 1 else outputs


__all__ = ["LigerFusedLinearScaledCrossEntropyFunction"]
