"""One node of an op in torch's graph stands as the nodes that it replaces would."""

import pytest
import torch
from samples import PUBLIC, arguments, differentiable_inputs, operator, tensors_of, with_leaves


def leaves_of(op, device):
    torch.manual_seed(3)
    values = arguments(op, device)
    names = differentiable_inputs(op, values)
    values = with_leaves(values, names)
    return values, {name: values[name] for name in names}


def outputs_with_history(op, values):
    return [one for one in tensors_of(operator(op)(**values)) if one.requires_grad]


@pytest.mark.parametrize("op", PUBLIC)
def test_an_input_that_no_used_output_depends_on_has_no_gradient(device, op):
    values, leaves = leaves_of(op, device)
    for i in range(len(outputs_with_history(op, values))):
        used = outputs_with_history(op, values)[i]
        # Not a plain sum, which for a softmax is a constant.
        weighted = (used.float() * torch.rand_like(used, dtype=torch.float32)).sum()
        found = torch.autograd.grad(weighted, leaves.values(), allow_unused=True)
        assert any(gradient is not None for gradient in found)
        for name, gradient in zip(leaves, found, strict=True):
            assert gradient is None or gradient.count_nonzero(), f"{name} of output {i}"


@pytest.mark.parametrize("op", PUBLIC)
def test_compiled_autograd_takes_an_eager_graph(op):
    """What was kept of a forward is unpacked outside the node's own backward. On a GPU it raises:
    what stands for incoming gradients in the trace is on the CPU."""
    values, leaves = leaves_of(op, "cpu")
    total = sum(one.float().sum() for one in outputs_with_history(op, values))
    expected = torch.autograd.grad(total, leaves.values(), retain_graph=True)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        total.backward()
    for leaf, gradient in zip(leaves.values(), expected, strict=True):
        assert torch.equal(leaf.grad, gradient)
