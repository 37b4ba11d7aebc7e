"""What holds for every op of the registry, from its declaration alone: a new op is tested here."""

from functools import partial

import pytest
import torch
from accuracy import relative_error
from samples import (
    CALLED,
    OPS,
    PUBLIC,
    arguments,
    assert_same_bits,
    differentiable_inputs,
    operator,
    results,
    tensors_of,
    with_leaves,
)
from torch.utils.checkpoint import checkpoint

every_op = pytest.mark.parametrize("op", OPS)
public_op = pytest.mark.parametrize("op", PUBLIC)


def test_every_public_op_has_an_example_and_of_numbers_with_a_fraction_a_gradient():
    assert {"rms_norm", "swiglu", "geglu", "rope", "cross_entropy"} <= set(PUBLIC)
    for op in CALLED:
        values = arguments(op, "cpu").values()
        assert values
        assert (op in PUBLIC) == any(v.is_floating_point() for v in values if torch.is_tensor(v))
    for op in PUBLIC:
        assert differentiable_inputs(op, arguments(op, "cpu")), op


@every_op
def test_schema_autograd_and_fake_tensors_pass_the_check_of_torch(device, op):
    values = arguments(op, device)
    torch.library.opcheck(operator(op), (), values)
    if op in PUBLIC:
        torch.library.opcheck(
            operator(op), (), with_leaves(values, differentiable_inputs(op, values))
        )


@every_op
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_meta_tensors_give_the_shapes_dtypes_and_strides_of_real_ones(device, op, dtype):
    values = arguments(op, device, dtype)
    meta = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
    pairs = zip(tensors_of(operator(op)(**values)), tensors_of(operator(op)(**meta)), strict=True)
    for real, promised in pairs:
        # A gradient that was not asked for is None.
        if real is None or promised is None:
            assert real is promised
            continue
        assert promised.shape == real.shape
        assert promised.dtype == real.dtype
        assert promised.stride() == real.stride()


@public_op
def test_meta_tensors_promise_the_strides_of_inputs_that_are_copied(op):
    def turned(value):
        if not isinstance(value, torch.Tensor) or value.dim() < 2:
            return value
        return value.transpose(-1, -2).contiguous().transpose(-1, -2)

    values = {name: turned(value) for name, value in arguments(op, "cpu").items()}
    meta = {
        name: torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if isinstance(value, torch.Tensor)
        else value
        for name, value in values.items()
    }
    pairs = zip(tensors_of(operator(op)(**values)), tensors_of(operator(op)(**meta)), strict=True)
    for real, promised in pairs:
        assert promised.shape == real.shape
        assert promised.stride() == real.stride()


@public_op
def test_gradients_are_those_of_finite_differences(op):
    values = arguments(op, "cpu", "f64", rows=3, size=6, inner=4)
    names = differentiable_inputs(op, values)

    def function(*leaves):
        outputs = operator(op)(**{**values, **dict(zip(names, leaves, strict=True))})
        return tuple(output for output in tensors_of(outputs) if has_values_of_leaves(output))

    def has_values_of_leaves(output):
        # One element for all stands for an input's gradient alone.
        stands_for_another = output.numel() > 1 and not any(output.stride())
        return output.requires_grad and not stands_for_another

    assert torch.autograd.gradcheck(
        function, [values[name].clone().requires_grad_() for name in names]
    )


@public_op
def test_float64_beside_another_dtype_is_computed_or_refused_and_never_a_failed_compile(op):
    values = arguments(op, "cpu")
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            try:
                operator(op)(**values | {name: value.double()})
            except ValueError as refused:
                assert f"liger_jit::{op}: argument" in str(refused)


@public_op
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_second_run_gives_the_same_bits(device, op, dtype):
    values = arguments(op, device, dtype, rows=67)
    names = differentiable_inputs(op, values)
    first = results(operator(op), values, names)
    assert_same_bits(results(operator(op), values, names), first)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs in one machine")
@public_op
def test_an_op_runs_on_the_gpu_of_its_tensors_whichever_is_current(op):
    values = arguments(op, "cuda:0", "bf16")
    names = differentiable_inputs(op, values)
    wanted = results(operator(op), values, names)
    elsewhere = {
        name: value.to("cuda:1") if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
    for current in (0, 1):
        with torch.cuda.device(current):
            found = results(operator(op), elsewhere, names)
            assert torch.cuda.current_device() == current
        assert {value.device.index for value in found.values()} == {1}
        assert_same_bits({name: value.to("cuda:0") for name, value in found.items()}, wanted)


@public_op
def test_a_compiled_graph_without_breaks_gives_the_same_bits(device, op):
    values = arguments(op, device)
    compiled = torch.compile(operator(op), fullgraph=True, backend="aot_eager")
    names = differentiable_inputs(op, values)
    assert_same_bits(results(compiled, values, names), results(operator(op), values, names))


@public_op
def test_a_graph_can_be_walked_twice_and_gives_the_same_gradients(device, op):
    values = arguments(op, device)
    names = differentiable_inputs(op, values)
    leaves = with_leaves(values, names)
    outputs = tensors_of(operator(op)(**leaves))
    loss = sum(output.sum() for output in outputs if output.requires_grad)
    inputs = [leaves[name] for name in names]
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
    for gradient, copy, tripled in zip(first, kept, second, strict=True):
        assert torch.equal(gradient, copy)
        torch.testing.assert_close(tripled, 3 * copy)
    torch.autograd.grad(loss, inputs)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)


@public_op
@pytest.mark.parametrize(
    "power", [1, 2], ids=["constant grad_output", "grad_output with a gradient"]
)
def test_double_backward_is_refused_and_never_silently_zero(device, op, power):
    values = arguments(op, device)
    names = differentiable_inputs(op, values)
    leaves = with_leaves(values, names)
    inputs = [leaves[name] for name in names]
    outputs = tensors_of(operator(op)(**leaves))
    loss = sum(output.pow(power).sum() for output in outputs if output.requires_grad)
    with pytest.raises((RuntimeError, NotImplementedError), match="liger_jit"):
        gradients = torch.autograd.grad(loss, inputs, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        # A term that has a gradient of its own would hide that the penalty has none.
        (penalty + sum(leaf.sum() for leaf in inputs)).backward()


@public_op
def test_torch_func_grad_gives_the_gradient_of_backward(op):
    values = arguments(op, "cpu")
    names = differentiable_inputs(op, values)
    leaves = with_leaves(values, names)
    first = tensors_of(operator(op)(**leaves))[0]
    leaves_of_names = [leaves[name] for name in names]
    wanted = torch.autograd.grad(first.sum(), leaves_of_names, materialize_grads=True)

    def total(parts):
        return tensors_of(operator(op)(**{**values, **parts}))[0].sum()

    gradients = torch.func.grad(total)({name: values[name] for name in names})
    for name, value in zip(names, wanted, strict=True):
        assert torch.equal(gradients[name], value), name


@public_op
def test_forward_mode_is_refused_by_name(device, op):
    values = arguments(op, device)
    floats = [n for n, x in values.items() if torch.is_tensor(x) and x.is_floating_point()]
    assert set(differentiable_inputs(op, values)) <= set(floats)
    for name in floats:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(values[name], torch.ones_like(values[name]))
            with pytest.raises((RuntimeError, NotImplementedError), match=op):
                operator(op)(**{**values, name: dual})


@public_op
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_give_the_same_bits(device, op, reentrant):
    values = arguments(op, device)
    run = operator(op)

    def checkpointed(**leaves):
        # The reentrant form hands on tensors only, by position.
        names = [name for name, leaf in leaves.items() if isinstance(leaf, torch.Tensor)]

        def positional(*tensors):
            return run(**{**leaves, **dict(zip(names, tensors, strict=True))})

        return checkpoint(positional, *[leaves[name] for name in names], use_reentrant=reentrant)

    gradients_of = differentiable_inputs(op, values)
    mine = results(checkpointed, values, gradients_of)
    wanted = results(run, values, gradients_of)
    # The reentrant form runs first without gradients, so what is made for them alone is empty.
    empty = [name for name, value in mine.items() if not value.numel()]
    assert_same_bits(*({n: v for n, v in r.items() if n not in empty} for r in (mine, wanted)))


@public_op
def test_saved_tensors_may_be_moved_away_and_back(device, op):
    values = arguments(op, device)
    names = differentiable_inputs(op, values)
    wanted = results(operator(op), values, names)
    packed = []

    def pack(tensor):
        packed.append(tensor)
        return tensor.detach().to("cpu", copy=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor.to(device)):
        assert_same_bits(results(operator(op), values, names), wanted)
    assert packed


@public_op
def test_autocast_gives_nearly_the_same_and_gradients_of_the_inputs_dtype(device, op):
    values = arguments(op, device, rows=33)
    names = differentiable_inputs(op, values)
    wanted = results(operator(op), values, names)
    with torch.autocast(device, torch.bfloat16):
        mine = results(operator(op), values, names)
    for name, value in wanted.items():
        if name.startswith("gradient"):
            assert mine[name].dtype == value.dtype
        if value.is_floating_point() and value.numel():
            assert relative_error(mine[name], value) < 2e-2, name


@public_op
def test_a_captured_cuda_graph_replays_on_new_values(cuda, op):
    values = arguments(op, cuda)
    names = differentiable_inputs(op, values)
    values = with_leaves(values, names)

    def step():
        outputs = tensors_of(operator(op)(**values))
        loss = sum(output.sum() for output in outputs if output.requires_grad)
        return (*outputs, *torch.autograd.grad(loss, [values[name] for name in names]))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name in names:
            values[name].normal_()
    graph.replay()
    for mine, wanted in zip(captured, step(), strict=True):
        assert torch.equal(mine, wanted)


def test_inductor_compiles_a_chain_of_ops_without_breaks(device):
    rms_norm, swiglu = operator("rms_norm"), operator("swiglu")

    def chain(x, weight):
        gate, up = rms_norm(2 * x, weight)[0].chunk(2, dim=-1)
        return swiglu(gate.sin(), up)

    values = {"x": torch.randn(9, 64, device=device), "weight": torch.rand(64, device=device)}
    compiled = results(torch.compile(chain, fullgraph=True), values, list(values))
    for name, value in results(chain, values, list(values)).items():
        torch.testing.assert_close(compiled[name], value)


def test_the_python_functions_compile_without_breaks(device):
    from liger_jit import functional as F

    def step(x, weight, gate, head):
        y, total = F.fused_add_rms_norm(x, 2 * x, weight)
        y = F.swiglu(F.rms_norm(y, weight, casting_mode="gemma"), gate) + F.geglu(total, gate)
        q = y.view(1, 9, 2, 8)
        cos, sin = gate.detach()[:, :8].cos(), gate.detach()[:, :8].sin()
        y = F.rope(q, None, cos, sin, unsqueeze_dim=2)[0].reshape(9, 16)
        target = torch.arange(9, device=x.device)
        loss = F.fused_linear_cross_entropy(y, head, target, num_items=7, return_z_loss=True)
        return loss.loss + F.cross_entropy(y @ head.t(), target, softcap=5.0)

    sizes = {"x": (9, 16), "weight": (16,), "gate": (9, 16), "head": (11, 16)}
    values = {name: torch.randn(size, device=device) for name, size in sizes.items()}
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    names = list(values)
    assert_same_bits(results(compiled, values, names), results(step, values, names))


def test_partial_arguments_take_the_defaults_of_the_schema(device):
    x = torch.randn(4, 64, device=device)
    rms_norm = partial(operator("rms_norm"), x, None)
    assert_same_bits(
        {"y": rms_norm()[0]},
        {"y": rms_norm(eps=1e-6, offset=0.0, casting_mode=0, promote=False)[0]},
    )
