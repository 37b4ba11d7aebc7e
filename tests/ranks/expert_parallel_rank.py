"""Ranks that have a share of the experts each: expert_parallel_rank.py FOLDER gloo|nccl RANKS.

Tells of each routing how far outputs and gradients are from those of all experts in one process.
"""

import torch
import torch.distributed as dist
from liger_jit.functional import experts
from liger_jit.transformers import LigerExpertParallelFusedMoe
from ranks import as_ranks

HIDDEN, WIDTH, OWN, SLOTS = 16, 24, 3, 2
TOKENS = (5, 8)  # of each rank: not the same


def difference(found, wanted):
    return ((found.cpu().double() - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()


def routings(everything):
    generator = torch.Generator().manual_seed(2)
    spread = torch.rand(sum(TOKENS), everything, generator=generator).topk(SLOTS).indices
    nobody = spread.clone()
    nobody[::3, 0] = everything
    return {
        "spread": spread,
        "all on the last rank": torch.full_like(spread, everything - 1),
        "some for nobody": nobody,
    }


def one_call(rank, device, indices, dtype):
    everything = OWN * dist.get_world_size()
    generator = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    x, weights = random(sum(TOKENS), HIDDEN), random(sum(TOKENS), SLOTS)
    gate, up = random(everything, WIDTH, HIDDEN), random(everything, WIDTH, HIDDEN)
    down, incoming = random(everything, HIDDEN, WIDTH), random(sum(TOKENS), HIDDEN)
    whole = [t.double().requires_grad_() for t in (x, weights, gate, up, down)]
    truth = experts(whole[0], indices, whole[1], torch.cat(whole[2:4], dim=1), whole[4])
    wanted = torch.autograd.grad(truth, whole, incoming.double())
    first = sum(TOKENS[:rank])
    mine = slice(first, first + TOKENS[rank])
    share = slice(rank * OWN, rank * OWN + OWN)
    parts = (mine, mine, share, share, share)
    whole_tensors = (x, weights, gate, up, down)
    own = [
        t[part].to(device).requires_grad_() for t, part in zip(whole_tensors, parts, strict=True)
    ]
    module = LigerExpertParallelFusedMoe(dist.group.WORLD)
    y = module(own[0], indices[mine].to(device), *own[1:], everything)
    found = torch.autograd.grad(y, own, incoming[mine].to(device))
    pairs = zip(found, wanted, parts, strict=True)
    return [difference(y, truth[mine]), *(difference(f, w[part]) for f, w, part in pairs)]


def refused():
    module = LigerExpertParallelFusedMoe(dist.group.WORLD)
    weight = torch.zeros(OWN, WIDTH, HIDDEN)
    indices = torch.zeros(1, 1, dtype=torch.long)
    try:
        module(torch.zeros(1, HIDDEN), indices, torch.ones(1, 1), weight, weight, weight.mT, OWN)
    except ValueError as error:
        return str(error)
    return "nothing"


def run(rank, folder, device):
    told = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, indices in routings(OWN * dist.get_world_size()).items():
            told[f"{name}, {dtype}"] = one_call(rank, device, indices, dtype)
    return {"calls": told, "refused": refused()}


if __name__ == "__main__":
    as_ranks(run)
