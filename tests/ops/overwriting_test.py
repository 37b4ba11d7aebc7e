"""A backward writes over what the forward kept only where nobody can see it, in every op."""

import pytest
import torch
from samples import PUBLIC, arguments, differentiable_inputs, operator, tensors_of, with_leaves

FACTOR = 0.5  # a loss that is multiplied with 1 leaves its gradient as it is


def leaves_of(op, device, **sizes):
    values = arguments(op, device, **sizes)
    names = differentiable_inputs(op, values)
    values = with_leaves(values, names)
    return values, [values[name] for name in names]


def total_of(outputs):
    return FACTOR * sum(one.float().sum() for one in tensors_of(outputs) if one.requires_grad)


def gradients(op, device, seed=3, **sizes):
    torch.manual_seed(seed)
    values, leaves = leaves_of(op, device, **sizes)
    return torch.autograd.grad(total_of(operator(op)(**values)), leaves)


def gradients_with_hooks(pack, unpack, op, device, **sizes):
    """Of what `gradients` are of."""
    torch.manual_seed(3)
    values, leaves = leaves_of(op, device, **sizes)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        outputs = operator(op)(**values)
    return torch.autograd.grad(total_of(outputs), leaves)


def assert_equal(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("op", PUBLIC)
def test_what_a_hook_packed_is_not_written(device, op):
    packed = []

    def pack(tensor):
        packed.append((tensor, tensor.clone(), tensor._version))
        return tensor

    found = gradients_with_hooks(pack, lambda tensor: tensor, op, device)
    assert packed
    for tensor, before, version in packed:
        assert torch.equal(tensor, before)
        assert tensor._version == version
    assert_equal(found, gradients(op, device))


@pytest.mark.parametrize("op", PUBLIC)
def test_an_array_that_a_hook_keeps_is_not_written(op):
    packed = []

    def pack(tensor):
        packed.append((tensor.detach().clone().numpy(), tensor.detach().clone()))
        return packed[-1][0]

    found = gradients_with_hooks(pack, torch.from_numpy, op, "cpu", dtype="f32")
    assert packed
    for array, before in packed:
        assert torch.equal(torch.from_numpy(array), before)
    assert_equal(found, gradients(op, "cpu", dtype="f32"))


@pytest.mark.parametrize("op", PUBLIC)
def test_what_a_hook_gave_away_may_be_written_and_gradients_are_the_same(device, op):
    found = gradients_with_hooks(torch.clone, torch.clone, op, device)
    assert_equal(found, gradients(op, device))


def of_an_inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


def with_gaps(tensor):
    strides = [7 * stride for stride in tensor.stride()]
    return torch.empty_strided(
        tensor.shape, strides, device=tensor.device, dtype=tensor.dtype
    ).copy_(tensor)


@pytest.mark.parametrize("unpack", [of_an_inference, with_gaps])
@pytest.mark.parametrize("op", PUBLIC)
def test_what_cannot_be_overwritten_is_not(device, op, unpack):
    found = gradients_with_hooks(torch.clone, unpack, op, device)
    wanted = gradients(op, device)
    if unpack is with_gaps and device == "cuda":  # torch's products of such tensors are others
        torch.testing.assert_close(found, wanted)
    else:
        assert_equal(found, wanted)


@pytest.mark.parametrize("held", ["the tensor", "a view"])
@pytest.mark.parametrize("op", PUBLIC)
def test_outputs_that_the_caller_holds_are_not_written(device, op, held):
    wanted = gradients(op, device)
    torch.manual_seed(3)
    values, leaves = leaves_of(op, device)
    outputs = tensors_of(operator(op)(**values))
    total = total_of(outputs)
    holding = [
        one.detach().view(-1) if held == "a view" else one for one in outputs if one.is_contiguous()
    ]
    del outputs
    before = [(one.clone(), one._version) for one in holding]
    found = torch.autograd.grad(total, leaves)
    for tensor, (value, version) in zip(holding, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version
    assert_equal(found, wanted)


LOSSES = ["cross_entropy", "fused_linear_cross_entropy"]


def loss_of(op, values, leaves):
    """A loss, and where the gradients lie that its forward has made."""
    outputs = operator(op)(**values)
    made = [one.data_ptr() for one in outputs if any(one.shape == leaf.shape for leaf in leaves)]
    return FACTOR * outputs[0], made


@pytest.mark.parametrize("op", LOSSES)
def test_a_gradient_that_nobody_holds_is_scaled_where_it_lies(device, op):
    values, leaves = leaves_of(op, device)
    loss, made = loss_of(op, values, leaves)
    found = torch.autograd.grad(loss, leaves)
    assert [one.data_ptr() for one in found] == made


@pytest.mark.parametrize("op", LOSSES)
def test_a_gradient_of_a_graph_that_is_kept_is_scaled_beside_it(device, op):
    values, leaves = leaves_of(op, device)
    loss, made = loss_of(op, values, leaves)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert not {one.data_ptr() for one in first} & set(made)
    second = torch.autograd.grad(loss, leaves)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("op", [*LOSSES, "gated_mlp"])
def test_a_backward_captured_without_its_forward_is_right_in_each_replay(cuda, op):
    wanted = gradients(op, cuda)  # compiles and loads what the captures need
    torch.manual_seed(3)
    values, leaves = leaves_of(op, cuda)
    kept = torch.autograd.grad(total := total_of(operator(op)(**values)), leaves, retain_graph=True)
    del total, kept  # so is the backward that overwrites nothing
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(forward):
        total = total_of(operator(op)(**values))
    with torch.cuda.graph(backward, pool=forward.pool()):
        found = torch.autograd.grad(total, leaves)
    forward.replay()
    for _ in range(3):
        backward.replay()
        assert_equal(found, wanted)


@pytest.mark.parametrize("op", LOSSES)
def test_a_step_captured_as_a_whole_needs_no_second_gradient(cuda, op):
    wanted = gradients(op, cuda)
    torch.manual_seed(3)
    values, leaves = leaves_of(op, cuda)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, made = loss_of(op, values, leaves)
        found = torch.autograd.grad(loss, leaves)
    assert [one.data_ptr() for one in found] == made
    for _ in range(3):
        graph.replay()
        assert_equal(found, wanted)
