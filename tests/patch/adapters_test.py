"""Adapters of PEFT, put in before the patch and after it: the step is that of the unpatched one."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients

peft = pytest.importorskip("peft")

KINDS = {
    "all projections": lambda: peft.LoraConfig(r=4, target_modules="all-linear"),
    "of a known task": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"
    ),
    "head": lambda: peft.LoraConfig(r=4, target_modules=["lm_head", "q_proj"]),
    "head decomposed": lambda: peft.LoraConfig(
        r=4, target_modules=["lm_head", "q_proj"], use_dora=True
    ),
    "head trained": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
    "norms trained": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["norm", "input_layernorm"]
    ),
    "weights decomposed": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], use_dora=True
    ),
    "activations scaled": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


def adapted(kind, patch_when=None, family="Llama"):
    model = build(family)
    if patch_when == "before":
        patch(model)
    torch.manual_seed(5)
    model = peft.get_peft_model(model, KINDS[kind]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # Adapters start as what changes nothing.
                generator = torch.Generator().manual_seed(len(name))
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if patch_when == "after":
        patch(model)
    return model


def step(model):
    inputs = batch()
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return loss_and_gradients(model, **inputs)


@pytest.mark.parametrize("patch_when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_same(kind, patch_when, monkeypatch):
    expected = step(adapted(kind))
    model = adapted(kind, patch_when)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model), expected)
    assert calls["rms_norm"] + calls["fused_add_rms_norm"] > 0


def test_merged_adapters_leave_a_patched_model(monkeypatch):
    models = [adapted("all projections").merge_and_unload()]
    models += [adapted("all projections", when).merge_and_unload() for when in ("before", "after")]
    for model in models:
        model.requires_grad_(True)
    expected = step(models[0])
    for model in models[1:]:
        with counted(monkeypatch) as calls:
            assert_same_step(step(model), expected)
        assert calls["fused_linear_cross_entropy"] == 1
        assert calls["gated_mlp"] == 2


def test_verify_says_that_a_wrapper_was_sharded():
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    model = adapted("all projections")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        handle = patch(fully_shard(model))
        with pytest.raises(RuntimeError, match="sharded over ranks"):
            handle.verify()
    finally:
        dist.destroy_process_group()
