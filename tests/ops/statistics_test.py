"""The statistics of norms: outputs that only a backward reads."""

import pytest
import torch
from samples import arguments, differentiable_inputs, operator, tensors_of, with_leaves

norm = pytest.mark.parametrize(
    "op",
    [
        "rms_norm",
        "fused_add_rms_norm",
        "layer_norm",
        "fused_add_layer_norm",
        "gated_rms_norm",
        "modulated_rms_norm",
    ],
)
of_a_norm = pytest.mark.parametrize(
    "op",
    [
        "rms_norm",
        "fused_add_rms_norm",
        "layer_norm",
        "fused_add_layer_norm",
        "rms_norm_add",
        "layer_norm_add",
    ],
)


@of_a_norm
def test_statistics_are_kept_for_a_backward_alone(device, op):
    values = arguments(op, device)
    results = 2 if op.startswith("fused_add") else 1
    statistics = len(tensors_of(operator(op)(**values))) - results
    for needed in (False, True):
        leaves = with_leaves(values, differentiable_inputs(op, values))
        with torch.set_grad_enabled(needed):
            kept = tensors_of(operator(op)(**leaves))[-statistics:]
        assert [one.numel() for one in kept] == [5 if needed else 0] * statistics


@norm
def test_a_backward_refuses_statistics_that_were_not_kept(device, op):
    values = arguments(f"{op}_backward", device)
    values["rstd"] = values["rstd"].new_empty(0)
    with pytest.raises(ValueError, match=f"{op}_backward: argument 'rstd' has shape"):
        operator(f"{op}_backward")(**values)
