"""Ranks that have a share of a layer's classes each: FOLDER gloo|nccl RANKS.

Tells of each way to call it how far log-probabilities, entropies and gradients are from those of
the whole layer in float64.
"""

import torch
import torch.distributed as dist
from liger_jit.functional import vocab_parallel_log_probs
from liger_jit.transformers.functional import liger_fused_linear_scaled_cross_entropy_tp
from ranks import as_ranks
from vocab_parallel_rank import Collectives, difference

CLASSES, TOKENS, HIDDEN = 67, 45, 16  # of a rank


def reference(input, weight, ids, bias, temperature, softcap, first_class):
    """Of the classes from that one on: no id is below it, and the others have no share."""
    logits = (input @ weight.t() + bias)[:, first_class:]
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = (logits / temperature).log_softmax(-1)
    chosen = log_p.gather(-1, (ids - first_class).clamp_min(0)[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.where(ids == -100, 0, chosen), torch.where(ids == -100, 0, entropy)


def difference_of_gradients(found, wanted):
    return difference(found, wanted) if wanted.any() else found.norm().item()


def one_call(rank, device, call, dtype, memory="auto", temperature=1.0, softcap=None, shift=0.0):
    ranks = dist.get_world_size()
    generator = torch.Generator().manual_seed(5)
    input = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype)
    weight = torch.randn(ranks * CLASSES, HIDDEN, generator=generator).to(dtype)
    bias = torch.randn(ranks * CLASSES, generator=generator)
    bias[:CLASSES] -= shift
    bias = bias.to(dtype)
    first = CLASSES if shift else 0
    ids = torch.randint(first, ranks * CLASSES, (TOKENS,), generator=generator)
    ids[1::4] = -100
    incoming = torch.rand(2, TOKENS, generator=generator, dtype=torch.float64)
    own = slice(rank * CLASSES, (rank + 1) * CLASSES)

    truth = [tensor.double().requires_grad_() for tensor in (input, weight, bias)]
    wanted = reference(*truth[:2], ids, truth[2], temperature, softcap, first)
    (wanted[0] * incoming[0] + wanted[1] * incoming[1]).sum().backward()

    leaves = [
        tensor.to(device, copy=True).requires_grad_() for tensor in (input, weight[own], bias[own])
    ]
    with Collectives() as collectives:
        found = call(
            *leaves[:2],
            ids.to(device),
            dist.group.WORLD,
            leaves[2],
            temperature,
            softcap,
            memory=memory,
        )
    weights = incoming.to(device, found[0].dtype)
    (found[0] * weights[0] + found[1] * weights[1]).sum().backward()
    return {
        "log_probs": difference(found[0].detach().cpu(), wanted[0].detach()),
        "entropy": difference(found[1].detach().cpu(), wanted[1].detach()),
        "dinput": difference_of_gradients(leaves[0].grad.cpu(), truth[0].grad),
        "dweight": difference_of_gradients(leaves[1].grad.cpu(), truth[1].grad[own]),
        "dbias": difference_of_gradients(leaves[2].grad.cpu(), truth[2].grad[own]),
        "collectives": collectives.count,
        "bits": torch.stack(found).detach().float().cpu().view(torch.int32).flatten().tolist(),
        "bits of dinput": leaves[0].grad.float().cpu().view(torch.int32).flatten().tolist(),
    }


def as_in_liger(rank, device):
    """(how far value and gradients are from float64, what is returned without an entropy)."""
    generator = torch.Generator().manual_seed(6)
    ranks = dist.get_world_size()
    input = torch.randn(TOKENS, HIDDEN, generator=generator)
    weight = torch.randn(ranks * CLASSES, HIDDEN, generator=generator)
    ids = torch.randint(ranks * CLASSES, (TOKENS,), generator=generator)
    ids[::3] = -1
    own = slice(rank * CLASSES, (rank + 1) * CLASSES)
    truth = [tensor.double().requires_grad_() for tensor in (input, weight)]
    log_p = (truth[0] @ truth[1].t() / 0.7).log_softmax(-1)
    nll = -log_p.gather(-1, ids.clamp_min(0)[:, None])[:, 0] * (ids != -1)
    entropy = -(log_p.exp() * log_p).sum(-1) * (ids != -1)
    (nll + 0.1 * entropy).sum().backward()
    leaves = [tensor.to(device).requires_grad_() for tensor in (input, weight[own])]
    function = liger_fused_linear_scaled_cross_entropy_tp
    found = function(*leaves, ids.to(device), None, 0.7, -1, 2, True)
    (found[0] + 0.1 * found[1]).sum().backward()
    alone = function(*leaves, ids.to(device), dist.group.WORLD, 0.7, ignore_index=-1)
    return {
        "nll": difference(found[0].detach().cpu(), nll.detach()),
        "entropy": difference(found[1].detach().cpu(), entropy.detach()),
        "dinput": difference_of_gradients(leaves[0].grad.cpu(), truth[0].grad),
        "dweight": difference_of_gradients(leaves[1].grad.cpu(), truth[1].grad[own]),
        "alone": torch.equal(alone, found[0]),
        "dtypes": [str(one.dtype) for one in found],
    }


def compiled(*arguments, **options):
    function = torch.compile(
        vocab_parallel_log_probs, fullgraph=True, backend="aot_eager", dynamic=False
    )
    return function(*arguments, **options)


def of_an_id_outside(device):
    """On all ranks alike, so that nobody waits for one that has gone."""
    classes = dist.get_world_size() * CLASSES
    input, weight = torch.ones(2, 4, device=device), torch.ones(CLASSES, 4, device=device)
    ids = torch.tensor([0, classes], device=device)
    try:
        log_probs, _ = vocab_parallel_log_probs(input, weight, ids, dist.group.WORLD)
        return "NaN" if log_probs[1].isnan() and log_probs[0].isfinite() else "nothing"
    except ValueError as error:
        return str(error)


def run(rank, folder, device):
    function = vocab_parallel_log_probs
    told = {
        f"{dtype}, {name}": one_call(rank, device, function, dtype, **options)
        for dtype in (torch.float32, torch.bfloat16)
        for name, options in {
            "plain": {},
            "temperature": {"temperature": 0.6},
            "softcap": {"softcap": 3.0},
            "least memory": {"memory": "min"},
            "far away": {"shift": 500.0},
            "minus infinity": {"shift": float("inf")},
        }.items()
    }
    told["compiled"] = one_call(rank, device, compiled, torch.float32)
    return {
        "calls": told,
        "as in Liger": as_in_liger(rank, device),
        "refused": of_an_id_outside(device),
    }


if __name__ == "__main__":
    as_ranks(run)
