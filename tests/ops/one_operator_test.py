"""A call dispatches the operators that it must, and none to allocate, copy or detach with."""

import pytest
import torch
from samples import OPS, PUBLIC, arguments, differentiable_inputs, operator, tensors_of, with_leaves

# A composite is made of torch's own operators.
op_of_kernels = pytest.mark.parametrize("op", [op for op in PUBLIC if not OPS[op]["composite"]])


def dispatched(work):
    """The operators that ran, in order, without the names of nodes of the graph."""
    work()  # what happens once has happened
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return [event.name for event in profile.events() if is_operator(event.name)]


def is_operator(name):
    return name.startswith(("liger_jit::", "aten::")) and not name.endswith("_gradient")


@op_of_kernels
def test_a_forward_is_one_operator(device, op):
    values = arguments(op, device)
    assert dispatched(lambda: operator(op)(**values)) == [f"liger_jit::{op}"]


@op_of_kernels
def test_a_backward_is_one_operator_more(device, op):
    values = arguments(op, device)
    names = differentiable_inputs(op, values)
    leaves = with_leaves(values, names)
    wanted = [leaves[name] for name in names]
    outputs = [o for o in tensors_of(operator(op)(**leaves)) if o.requires_grad]
    grad_output = [torch.ones_like(output) for output in outputs]

    def both():
        outputs = [o for o in tensors_of(operator(op)(**leaves)) if o.requires_grad]
        torch.autograd.grad(outputs, wanted, grad_output)

    backward = OPS[op]["backward"] or "scale_"
    assert dispatched(both) == [f"liger_jit::{op}", f"liger_jit::{backward}"]


@op_of_kernels
def test_a_leaf_takes_its_gradient_without_a_copy(device, op):
    values = arguments(op, device)
    names = differentiable_inputs(op, values)

    def backward():
        leaves = with_leaves(values, names)
        outputs = [o for o in tensors_of(operator(op)(**leaves)) if o.requires_grad]
        torch.autograd.backward(outputs, grad_output)

    leaves = with_leaves(values, names)
    grad_output = [
        torch.ones_like(o) for o in tensors_of(operator(op)(**leaves)) if o.requires_grad
    ]
    leaves_made = sum(isinstance(value, torch.Tensor) for value in values.values())
    # One gradient for both summands, or one that the caller holds: one of them needs a copy.
    shared = op.startswith("fused_add") or op in ("rms_norm_add", "layer_norm_add")
    assert dispatched(backward).count("aten::copy_") == leaves_made + shared
