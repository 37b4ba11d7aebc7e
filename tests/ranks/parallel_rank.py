"""Ranks that spread modules and models by tensor parallelism: parallel_rank.py FOLDER gloo|nccl 2.

Tells for each of them how far the loss and all gradients are from those of the whole one.
"""

import dataclasses
import inspect
from functools import partial

import liger_jit
import torch
import transformers
from liger_jit import transformers as liger
from ranks import as_ranks
from tiny_models import SETTINGS, VOCABULARY, batch, build
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

HIDDEN = 32


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def error(value, reference):
    value, reference = whole(value).double(), reference.double()
    return ((value - reference).norm() / reference.norm().clamp_min(1e-30)).item()


def launches():
    return liger_jit.stats()["counters"]["launches"]


def step(model, loss_of):
    """Loss, gradients by name, the loss after a step of an optimizer, launches of our kernels."""
    before = launches()
    # Not all at once: some parameters are sharded tensors and some are plain ones.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=False)
    loss = loss_of(model)
    loss.backward()
    gradients = {
        name: whole(one.grad) for name, one in model.named_parameters() if one.grad is not None
    }
    optimizer.step()
    return whole(loss), gradients, whole(loss_of(model)), launches() - before


def told_of(found, wanted):
    loss, gradients, next_loss, count = found
    assert gradients.keys() == wanted[1].keys(), gradients.keys() ^ wanted[1].keys()
    return {
        "loss": error(loss, wanted[0]),
        "gradients": {name: error(one, wanted[1][name]) for name, one in gradients.items()},
        "next loss": error(next_loss, wanted[2]),
        "learned": abs(wanted[0] - wanted[2]).item(),
        "launches": count,
    }


# Modules under Liger Kernel's names.


class Block(nn.Module):
    def __init__(self, norm, mlp, last):
        super().__init__()
        self.norm, self.mlp, self.last = norm, mlp, last

    def forward(self, x):
        return self.last(x + self.mlp(self.norm(x)))


def block(mlp, norm=liger.LigerRMSNorm):
    torch.manual_seed(8)
    config = transformers.LlamaConfig(**SETTINGS)
    config.hidden_activation = "gelu_pytorch_tanh"
    made = Block(norm(HIDDEN), mlp(config), liger.LigerLayerNorm(HIDDEN, bias=True))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def hidden_states(device):
    return torch.randn(2, 6, HIDDEN, generator=torch.Generator().manual_seed(9)).to(device)


def weighed(output):
    weight = torch.linspace(1, 2, output.numel(), device=output.device).view(output.shape)
    if isinstance(output, DTensor):
        weight = distribute_tensor(weight, output.device_mesh, output.placements)
    loss = (output * weight).square().mean()
    return loss.full_tensor() if isinstance(loss, DTensor) else loss


# Activations are whole between the projections, or stay sharded tensors in the gated activation.
def mlp_plan(local):
    return {
        "mlp": PrepareModuleInput(
            input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),), use_local_output=local
        ),
        "mlp.gate_proj": ColwiseParallel(use_local_output=local),
        "mlp.up_proj": ColwiseParallel(use_local_output=local),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
    }


def block_plan(local):
    return {"norm": SequenceParallel(), "last": SequenceParallel(), **mlp_plan(local)}


BLOCKS = {
    "SwiGLU": (liger.LigerSwiGLUMLP, liger.LigerRMSNorm),
    "GEGLU": (liger.LigerGEGLUMLP, liger.LigerRMSNormForGemma),
}


def of_modules(device):
    told = {}
    x = hidden_states(device)
    for name, parts in BLOCKS.items():
        wanted = step(block(*parts).to(device), lambda model: weighed(model(x)))
        for kind, local in (("local", True), ("sharded", False)):
            for sizes in ((1, 2), (2, 1)):
                mesh = init_device_mesh(device.type, sizes, mesh_dim_names=("data", "tensor"))
                model = parallelize_module(
                    block(*parts).to(device), mesh["tensor"], block_plan(local)
                )
                if sizes[0] > 1:
                    fully_shard(model, mesh=mesh["data"])
                sharded = distribute_tensor(x, mesh["tensor"], [Shard(1)])
                found = step(model, lambda model, sharded=sharded: weighed(model(sharded)))
                told[f"{name}, {kind}, {sizes}"] = told_of(found, wanted)
    told["FusedAddRMSNorm"] = of_the_fused_norm(device, x)
    return told


def of_the_fused_norm(device, x):
    def made():
        torch.manual_seed(8)
        return liger.LigerFusedAddRMSNorm(HIDDEN).to(device)

    def loss_of(inputs):
        # By name: SequenceParallel passes on one argument by position.
        return lambda model: sum(weighed(output) for output in model(inputs[0], residual=inputs[1]))

    wanted = step(made(), loss_of((x, x * 2)))
    mesh = init_device_mesh(device.type, (2,))
    model = parallelize_module(made(), mesh, SequenceParallel())
    inputs = [distribute_tensor(one, mesh, [Shard(1)]) for one in (x, x * 2)]
    return told_of(step(model, loss_of(inputs)), wanted)


# Models of transformers.

FAMILIES = ("Llama", "Qwen3")


def model_of(family, device, tied=False):
    # Sizes that two ranks can share alike.
    return build(family, vocab_size=VOCABULARY + 1, tie_word_embeddings=tied).to(device)


def loss_of(model):
    return model(**{name: value.to(model.device) for name, value in batch(tokens=12).items()}).loss


def sequence_parallel(model, mesh):
    """Norms and sums between layers on a part of the tokens, projections on a part of the heads."""
    to_all = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
    of_layer = {
        "input_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": Shard(1)},
            desired_input_kwarg_layouts={"hidden_states": Replicate()},
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        "post_attention_layernorm": SequenceParallel(),
        "mlp": PrepareModuleInput(**to_all),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
    }
    for layer in model.model.layers:
        plan = dict(of_layer)
        for name in ("q_norm", "k_norm"):
            if hasattr(layer.self_attn, name):
                # On a part of the heads.
                plan[f"self_attn.{name}"] = SequenceParallel(sequence_dim=2, use_local_output=True)
        parallelize_module(layer, mesh, plan)
    parallelize_module(
        model,
        mesh,
        {
            "model.embed_tokens": RowwiseParallel(
                input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False
            ),
            "model.norm": SequenceParallel(),
            "lm_head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        },
    )
    return model


def projections_alone(model, mesh):
    for layer in model.model.layers:
        parallelize_module(
            layer,
            mesh,
            {
                "mlp.gate_proj": ColwiseParallel(),
                "mlp.up_proj": ColwiseParallel(),
                "mlp.down_proj": RowwiseParallel(),
            },
        )
    return model


def head_alone(model, mesh):
    return parallelize_module(model, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})


def plan_of_transformers(model, mesh):
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    if "tp_plan" not in inspect.signature(apply_tensor_parallelism).parameters:
        return apply_tensor_parallelism(model, mesh)
    return apply_tensor_parallelism(model, mesh, model._expand_parallel_plan(dict(model.tp_plan)))


def with_layers_sharded(model, mesh):
    """Tensor parallelism over one rank, and FSDP over two."""
    both = init_device_mesh(mesh.device_type, (2, 1), mesh_dim_names=("data", "tensor"))
    sequence_parallel(model, both["tensor"])
    for layer in model.model.layers:
        fully_shard(layer, mesh=both["data"])
    return fully_shard(model, mesh=both["data"])


WAYS = (
    sequence_parallel,
    projections_alone,
    head_alone,
    plan_of_transformers,
    with_layers_sharded,
)
# How a model is patched: whole, with the loss of real logits, and without its loss.
PATCHES = {
    "": {},
    ", real logits": {"cross_entropy": True, "fused_linear_cross_entropy": False},
    ", own loss": {"fused_linear_cross_entropy": False},
}


def of_models(device):
    told = {}
    mesh = init_device_mesh(device.type, (2,))
    for family in FAMILIES:
        wanted = step(model_of(family, device), loss_of)
        for way in WAYS:
            told[f"{family}, {way.__name__}"] = of_spreading(
                partial(model_of, family, device), way, mesh, wanted
            )
    return told


def tried(run, wanted):
    """What went wrong is told: the ranks do the same, so none waits for another."""
    try:
        return told_of(run(), wanted)
    except Exception as trouble:
        return {"trouble": f"{type(trouble).__name__}: {trouble}"[:600]}


def of_spreading(made, way, mesh, wanted):
    def unpatched():
        return step(way(made(), mesh), loss_of)

    def before(options):
        model = made()
        liger_jit.patch(model, **options)
        return step(way(model, mesh), loss_of)

    def after(options):
        model = way(made(), mesh)
        liger_jit.patch(model, **options)
        return step(model, loss_of)

    told = {"unpatched": tried(unpatched, wanted)}
    for name, options in PATCHES.items():
        told[f"patched before{name}"] = tried(partial(before, options), wanted)
        told[f"patched after{name}"] = tried(partial(after, options), wanted)
    return told


def automatic_plan(ranks):
    """The arguments of from_pretrained that ask for the model's own plan."""
    try:
        from transformers.distributed import DistributedConfig

        if "tp_plan" in {field.name for field in dataclasses.fields(DistributedConfig)}:
            return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=ranks)}
    except ImportError:
        pass
    return {"tp_plan": "auto", "tp_size": ranks}


def of_loaded_models(rank, device, folder):
    """Models that from_pretrained spreads by their own plan while it loads them, one of them with
    a weight that embedding and head share."""
    told = {}
    for family, tied in zip(FAMILIES, (False, True), strict=True):
        model = model_of(family, device, tied)
        if rank == 0:
            model.save_pretrained(folder / family)
        torch.distributed.barrier()
        wanted = step(model, loss_of)

        def run(options, path=folder / family):
            made = transformers.AutoModelForCausalLM.from_pretrained(
                path, attn_implementation="eager", **automatic_plan(2)
            ).train()
            if options is not None:
                liger_jit.patch(made, **options)
            return step(made, loss_of)

        told[family] = {"unpatched": tried(partial(run, None), wanted)}
        for name, options in PATCHES.items():
            told[family][f"patched after{name}"] = tried(partial(run, options), wanted)
    return told


def run(rank, folder, device):
    return {
        "modules": of_modules(device),
        "models": of_models(device),
        "loaded": of_loaded_models(rank, device, folder),
    }


if __name__ == "__main__":
    as_ranks(run)
