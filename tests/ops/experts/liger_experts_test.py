"""The modules under Liger's names: what transformers' own experts compute, with their weights."""

from types import SimpleNamespace

import pytest
import torch
from accuracy import assert_refused
from liger_jit.transformers import LigerExpertParallelFusedMoe, LigerExperts

CONFIG = SimpleNamespace(
    hidden_size=32,
    intermediate_size=48,
    hidden_act="silu",
    num_local_experts=4,
    _experts_implementation="eager",
)


def routing(device, tokens=9, slots=2):
    indices = torch.rand(tokens, CONFIG.num_local_experts, device=device).topk(slots).indices
    return indices, torch.rand(tokens, slots, device=device)


def test_experts_are_those_of_mixtral(device):
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    theirs, mine = (kind(CONFIG).to(device) for kind in (MixtralExperts, LigerExperts))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(9, 32, device=device)
    indices, weights = routing(device)
    grads = []
    for module in (mine, theirs):
        leaf = x.clone().requires_grad_()
        y = module(leaf, indices, weights)
        y.square().mean().backward()
        grads.append([y, leaf.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sizes_have_the_names_of_any_family():
    config = SimpleNamespace(
        hidden_size=8,
        moe_intermediate_size=6,
        intermediate_size=9,
        hidden_act="silu",
        num_experts=3,
    )
    module = LigerExperts(config)
    assert module.gate_up_proj.shape == (3, 12, 8)
    assert module.down_proj.shape == (3, 8, 6)
    del config.num_experts
    assert_refused(lambda: LigerExperts(config), "num_experts", "n_routed_experts")
    config.hidden_act = "relu"
    assert_refused(lambda: LigerExperts(config), "relu", "silu")


@pytest.mark.parametrize("leading", [(9,), (3, 3)])
def test_without_a_group_all_experts_are_here(device, leading):
    module = LigerExpertParallelFusedMoe()
    gate, up = torch.randn(2, 4, 16, 32, device=device)
    down = torch.randn(4, 32, 16, device=device)
    x = torch.randn(9, 32, device=device)
    indices, weights = routing(device)
    wanted = torch.zeros_like(x)
    for slot in range(2):
        e = indices[:, slot]
        h = torch.nn.functional.silu(torch.einsum("th,tih->ti", x, gate[e]))
        h = h * torch.einsum("th,tih->ti", x, up[e])
        wanted += torch.einsum("ti,thi->th", h, down[e]) * weights[:, slot, None]
    routed = [t.view(*leading, -1) for t in (x, indices, weights)]
    found = module(*routed, gate, up, down, 4)
    torch.testing.assert_close(found, wanted.view(*leading, -1), rtol=1e-4, atol=1e-3)
