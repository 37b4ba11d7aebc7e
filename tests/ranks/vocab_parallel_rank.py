"""Ranks that have a share of the classes each: vocab_parallel_rank.py FOLDER gloo|nccl RANKS.

Tells of each way to call the loss how far loss and gradient are from those of the whole logits in
float64, and how many collectives it took.
"""

import torch
import torch.distributed as dist
from liger_jit.functional import vocab_parallel_cross_entropy
from liger_jit.transformers import LigerVocabParallelCrossEntropy
from ranks import as_ranks

CLASSES = 520  # of a rank


def reference(logits, target, smoothing, formula, part):
    lse = logits.logsumexp(-1)
    score = logits.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    classes = logits[..., part].shape[-1]
    a = smoothing * classes / (classes - 1) if formula == "megatron" else smoothing
    loss = (1 - a) * (lse - score) + a * (lse - logits[..., part].mean(-1))
    return loss.masked_fill(target == -100, 0.0)


class Collectives:
    """How many all-gathers a call makes."""

    def __enter__(self):
        self.count, self.function = 0, dist.all_gather_into_tensor
        dist.all_gather_into_tensor = self
        return self

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.function(*args, **kwargs)

    def __exit__(self, *_):
        dist.all_gather_into_tensor = self.function


def difference(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def one_call(rank, device, call, dtype, smoothing, formula, mode):
    ranks = dist.get_world_size()
    generator = torch.Generator().manual_seed(5)
    whole = 3 * torch.randn(4, 6, ranks * CLASSES, generator=generator)
    target = torch.randint(ranks * CLASSES, (4, 6), generator=generator)
    target[1, 2] = -100
    incoming = torch.rand(4, 6, generator=generator)
    whole = whole.to(dtype)
    own = slice(rank * CLASSES, (rank + 1) * CLASSES)
    truth = whole.double().requires_grad_()
    average = own if mode == "partition" else slice(None)
    wanted = reference(truth, target, smoothing, formula, average)
    wanted.backward(incoming.double())
    leaf = whole[..., own].to(device).requires_grad_()
    with Collectives() as collectives:
        loss = call(leaf, target.to(device), dist.group.WORLD)
    loss.backward(incoming.to(device))
    return {
        "loss": difference(loss.detach().cpu(), wanted.detach()),
        "gradient": difference(leaf.grad.cpu(), truth.grad[..., own]),
        "collectives": collectives.count,
        "bits": loss.detach().cpu().view(torch.int32).flatten().tolist(),
    }


def run(rank, folder, device):
    told = {}
    for dtype in (torch.float32, torch.bfloat16):
        for smoothing in (0.0, 0.1):
            for formula in ("pytorch", "megatron"):
                for mode in ("global", "partition"):
                    module = LigerVocabParallelCrossEntropy(-100, smoothing, "none", formula, mode)
                    name = f"{dtype}, {smoothing}, {formula}, {mode}"
                    told[name] = one_call(rank, device, module, dtype, smoothing, formula, mode)

    def compiled(logits, target, group):
        function = torch.compile(
            vocab_parallel_cross_entropy, fullgraph=True, backend="aot_eager", dynamic=False
        )
        return function(logits, target, group)

    name = "compiled"
    told[name] = one_call(rank, device, compiled, torch.float32, 0.0, "pytorch", "global")
    return {"calls": told, "refused": of_a_label_outside(device)}


def of_a_label_outside(device):
    """On all ranks alike, so that nobody waits for one that has gone."""
    ranks = dist.get_world_size()
    target = torch.tensor([0, ranks * CLASSES], device=device)
    try:
        loss = vocab_parallel_cross_entropy(
            torch.zeros(2, CLASSES, device=device), target, dist.group.WORLD
        )
        return "NaN" if loss[1].isnan() and loss[0].isfinite() else "nothing"
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    as_ranks(run)
