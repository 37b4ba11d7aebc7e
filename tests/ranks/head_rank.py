"""Ranks with a head that is spread over them: head_rank.py FOLDER gloo|nccl RANKS.

For each way to spread it, losses and gradients of a short training without a patch, with one that
came before and with one that came after.
"""

import dataclasses
import os

import liger_jit
import torch
import transformers
from liger_jit import functional
from ranks import as_ranks
from tiny_models import build
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from transformers.distributed import DistributedConfig

VOCABULARY = 96  # transformers spreads equal parts only
ONLY_THE_LOSS = dict.fromkeys(("rope", "rms_norm", "layer_norm", "swiglu", "geglu"), False)


def columns(model, mesh):
    return parallelize_module(model, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})


def rows(model, mesh):
    style = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    return parallelize_module(model, mesh, {"lm_head": style})


def columns_of_a_sequence(model, mesh):
    """The input comes as a shard of the sequence, cut for this test."""
    model.lm_head.register_forward_pre_hook(
        lambda head, inputs: (inputs[0].chunk(mesh.size(), 1)[mesh.get_local_rank()],)
    )
    style = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    return parallelize_module(model, mesh, {"lm_head": style})


WAYS = (columns, rows, columns_of_a_sequence)


def takes_plans():
    """Whether from_pretrained spreads a model by a plan that it is given; older releases do not."""
    return "tp_plan" in {field.name for field in dataclasses.fields(DistributedConfig)}


PLANS = {"head": {"lm_head": "colwise_gather_output"}, "auto": "auto"}


def step(model, device):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCABULARY, (2, 10), generator=generator)
    labels = ids.clone()
    labels[0, :3] = -100
    model.zero_grad()
    loss = model(input_ids=ids.to(device), labels=labels.to(device)).loss
    loss.backward()
    norms = {
        name: getattr(p.grad, "full_tensor", lambda p=p: p.grad)().double().square().sum().item()
        for name, p in model.named_parameters()
    }
    return {"loss": loss.item(), "gradients": norms}


def run(rank, folder, device):
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    told = {}
    for way in WAYS:
        plain = step(way(made(device), mesh), device)
        model = made(device)
        liger_jit.patch(model)
        before = step(way(model, mesh), device)
        model = way(made(device), mesh)
        status = liger_jit.patch(model).report()[-1].status
        told[way.__name__] = {
            "plain": plain,
            "patched": before,
            "patched late": step(model, device),
            "status": status,
        }
    saved = folder / "model"
    made("cpu").save_pretrained(saved)
    torch.distributed.barrier()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(mesh.size()))
    plans = PLANS if takes_plans() else {}
    for name, plan in plans.items():
        plain, late = (
            transformers.LlamaForCausalLM.from_pretrained(
                saved,
                distributed_config=DistributedConfig(tp_plan=plan, tp_size=mesh.size()),
                attn_implementation="eager",
            ).train()
            for _ in range(2)
        )
        status = liger_jit.patch(late, **ONLY_THE_LOSS).report()[-1].status
        told[f"plan {name}"] = {
            "plain": step(plain, device),
            "patched late": step(late, device),
            "status": status,
            # A plan puts another forward on the head, or hooks, which may be gone at the next call.
            "hooked": bool(late.lm_head._forward_hooks or late.lm_head._forward_pre_hooks),
        }
    return {"calls": fused.calls, "ways": told, "plans": sorted(plans)}


def made(device):
    return build(vocab_size=VOCABULARY, num_hidden_layers=1).to(device)


class Fused:
    """Counts the calls of the fused loss on values."""

    def __init__(self):
        self.calls, self.function = 0, functional.fused_linear_cross_entropy

    def __call__(self, states, *args, **kwargs):
        self.calls += not states.is_meta
        return self.function(states, *args, **kwargs)


fused = functional.fused_linear_cross_entropy = Fused()


if __name__ == "__main__":
    as_ranks(run)
