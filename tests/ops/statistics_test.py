"""The statistics of norms: outputs that only a backward reads."""

import pytest
import torch
from samples import arguments, differentiable_inputs, operator, tensors_of, with_leaves

norm = pytest.mark.parametrize("op", ["rms_norm", "fused_add_rms_norm", "layer_norm"])


@norm
def test_statistics_are_kept_for_a_backward_alone(device, op):
    values = arguments(op, device)
    statistics = len(tensors_of(operator(op)(**values))) - (2 if "add" in op else 1)
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
