"""The losses of TRL's trainers, called as a trainer calls them: `compute_loss` with a batch.

A trainer is not constructed, since that wants data sets and folders. It is an object of the
trainer's class with the attributes that its constructor would have set and its loss reads, which
are the defaults of the trainer's configuration but for what all providers of a step have alike; the
model gets the head that the constructor gives it. The metrics that a trainer makes beside its loss,
and waits for, belong to its step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch import Tensor

from ..stand_ins import take_names_of_absent
from . import distillation as of_distillation
from . import dpo as of_dpo
from . import grpo as of_grpo
from .batch import Batch, joined

take_names_of_absent()

from trl import DistillationTrainer, DPOTrainer, GRPOTrainer  # noqa: E402
from trl.models.utils import _ForwardRedirection  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402


def grpo(batch: Batch, policy) -> Callable[[], Tensor]:
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    trainer = _trainer(
        GRPOTrainer,
        policy,
        beta=of_grpo.BETA,
        current_gradient_accumulation_steps=1,
        epsilon_high=0.2,
        epsilon_low=0.2,
        importance_sampling_level="token",
        loss_type="dapo",
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    return lambda: trainer.compute_loss(policy, batch)


def dpo(batch: Batch, policy, reference) -> Callable[[], Tensor]:
    add_fused_lm_head(policy, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    add_fused_lm_head(reference)
    trainer = _trainer(
        DPOTrainer,
        policy,
        beta=of_dpo.BETA,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        precompute_ref_logps=False,
        ref_model=reference,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
    )
    of_prompts = torch.zeros_like(batch["prompt_mask"])
    counted = torch.cat([of_prompts, batch["completion_mask"]], dim=1)
    inputs = joined(batch) | {"completion_mask": counted}
    return lambda: trainer.compute_loss(policy, inputs)


def distillation(batch: Batch, student, teacher) -> Callable[[], Tensor]:
    trainer = _trainer(
        DistillationTrainer,
        student,
        beta=of_distillation.BETA,
        model_kwarg_keys={"logits_to_keep"},
        teacher_model=teacher,
        temperature=1.0,
        _forward_redirection=_ForwardRedirection(),
        _is_vlm=False,
    )
    inputs = batch | {"num_items_in_batch": batch["completion_mask"].sum()}
    return lambda: trainer.compute_loss(student, inputs)


def _trainer(of_class: type, model, **attributes):
    trainer = object.__new__(of_class)
    arguments = SimpleNamespace(
        delta=None,
        gradient_checkpointing_kwargs=None,
        report_to=[],
        steps_per_generation=1,
        use_bias_correction_kl=False,
    )
    vars(trainer).update(
        accelerator=Accelerator(),
        args=arguments,
        aux_loss_enabled=False,
        model=model,
        state=SimpleNamespace(global_step=0),
        _metrics={"train": defaultdict(list)},
        **attributes,
    )
    return trainer
