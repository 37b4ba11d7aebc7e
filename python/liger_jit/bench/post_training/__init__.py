"""Whole steps of post-training: an update by GRPO, by DPO, and by distillation from a teacher.

A step is the forward pass, the loss, the backward pass and the optimizer's, on a batch that is
there. Eager runs the model as transformers has it, with formulas of logits; `trl` the same model
with the loss method of TRL's trainer; Liger Kernel and liger_jit the model that each has patched,
with a loss of hidden states and head, called alike by both.
"""
