"""Every op, its gradients and its promises to a tracer, for tensors that lie anywhere in memory."""

import pytest
import torch
from accuracy import relative_error
from layouts import LAYOUTS, lay_out, on_meta, plain, shares_memory_with_itself
from samples import OPS, PUBLIC, arguments, differentiable_inputs, operator, tensors_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

every_op = pytest.mark.parametrize("op", OPS)
public_op = pytest.mark.parametrize("op", PUBLIC)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_dtype = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def written_by(op):
    return [each["name"] for each in OPS[op]["inputs"] if each["written"]]


def tensors_in(values):
    return [name for name, value in values.items() if isinstance(value, torch.Tensor)]


def odd_arguments(op, device, dtype):
    """Rows of 13 elements, or of 14 where they must be even."""
    values = arguments(op, device, dtype, size=13)
    try:
        operator(op)(**{name: on_meta(value) for name, value in values.items()})
    except ValueError:
        values = arguments(op, device, dtype, size=14)
    return values


def outcome(op, values):
    """What a call returns, and what it leaves in the inputs that it overwrites."""
    outputs = [value for value in tensors_of(operator(op)(**values)) if value is not None]
    return [*outputs, *(values[name] for name in written_by(op) if values.get(name) is not None)]


def assert_same(op, dtype, mine, wanted, where):
    assert len(mine) == len(wanted)
    for one, other in zip(mine, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype, where
        one, other = one.nan_to_num(7.0), other.nan_to_num(7.0)
        if not OPS[op]["composite"]:
            assert torch.equal(one, other), where
        elif other.is_floating_point() and other.numel():
            # Products of the library, which adds in an order of its own.
            assert relative_error(one, other) < (1e-6 if dtype == "f32" else 1e-2), where
        else:
            assert torch.equal(one, other), where


def check_refusal(op, error):
    """Public ops take every layout; a part of a composite may say which argument it does not."""
    assert op not in PUBLIC, error
    assert f"liger_jit::{op}: argument '" in str(error) and "; allowed: " in str(error)


def check_inputs(op, dtype, layout, values, names):
    where = f"{', '.join(names)} {layout}"
    laid = lay_out(layout, values, names)
    wanted = outcome(op, {name: plain(value) for name, value in laid.items()})
    meta = {name: on_meta(value) for name, value in laid.items()}
    try:
        mine = outcome(op, laid)
    except ValueError as error:
        check_refusal(op, error)
        return
    for name in written_by(op):
        assert laid.get(name) is None or not shares_memory_with_itself(laid[name]), where
    assert_same(op, dtype, mine, wanted, where)
    for real, promised in zip(mine, outcome(op, meta), strict=True):
        assert promised.shape == real.shape and promised.dtype == real.dtype, where
        assert promised.stride() == real.stride(), where


@every_op
@every_dtype
@every_layout
def test_inputs_may_lie_anywhere_in_memory(device, op, dtype, layout):
    """Values, shapes and strides; what is overwritten is either right or refused by name."""
    choices = [arguments(op, device, dtype)]
    if layout == "padded":
        choices.append(odd_arguments(op, device, dtype))
    for values in choices:
        names = tensors_in(values)
        for some in [names, *([name] for name in names)]:
            check_inputs(op, dtype, layout, values, some)


@pytest.mark.parametrize("op", [op for op in OPS if written_by(op)])
@pytest.mark.parametrize("layout", ["leading expanded", "overlapping"])
def test_what_is_overwritten_may_not_be_one_in_memory(device, op, layout):
    values = arguments(op, device)
    met = 0
    for name in written_by(op):
        if values.get(name) is None:
            continue
        laid = lay_out(layout, values, [name])
        if not shares_memory_with_itself(laid[name]):
            continue
        met += 1
        with pytest.raises(ValueError, match=f"liger_jit::{op}: argument '{name}'"):
            operator(op)(**laid)
    assert met or all(values[name] is None or values[name].dim() < 2 for name in written_by(op))


def gradients(op, values, names, incoming):
    """Those of the inputs named, for gradients that `incoming` makes of the outputs."""
    leaves = {
        name: value.detach().requires_grad_(name in names)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in values.items()
    }
    outputs = [value for value in tensors_of(operator(op)(**leaves)) if value.requires_grad]
    return torch.autograd.grad(
        outputs, [leaves[name] for name in names], [incoming(value) for value in outputs]
    )


def made_of(output):
    """Values that differ from entry to entry, and are the same each time."""
    weight = torch.linspace(1, 2, output.numel(), device=output.device)
    return weight.view(output.shape).to(output.dtype)


def check_gradients(op, dtype, layout, values):
    names = differentiable_inputs(op, values)
    change = LAYOUTS[layout]
    wanted = gradients(op, values, names, lambda output: plain(change(made_of(output))))
    mine = gradients(op, values, names, lambda output: change(made_of(output)))
    assert_same(op, dtype, mine, wanted, f"incoming {layout}")
    laid = lay_out(layout, values, tensors_in(values))
    alike = {name: plain(value) for name, value in laid.items()}
    wanted = gradients(op, alike, names, made_of)
    mine = gradients(op, laid, names, made_of)
    assert_same(op, dtype, mine, wanted, f"inputs {layout}")


@public_op
@every_dtype
@every_layout
def test_gradients_of_any_layout_are_read_right(device, op, dtype, layout):
    check_gradients(op, dtype, layout, arguments(op, device, dtype))
    if layout == "padded":
        check_gradients(op, dtype, layout, odd_arguments(op, device, dtype))


@public_op
@every_layout
def test_no_rows_are_read_right_in_any_layout(device, op, layout):
    values = arguments(op, device, rows=0)
    check_inputs(op, "f32", layout, values, tensors_in(values))
    check_gradients(op, "f32", layout, values)


@public_op
@every_layout
def test_symbolic_sizes_promise_the_strides_of_real_ones(op, layout):
    laid = lay_out(layout, arguments(op, "cpu"), tensors_in(arguments(op, "cpu")))
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def symbolic(value):
        if not isinstance(value, torch.Tensor):
            return value
        sizes = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * value.dim())
        return mode.from_tensor(value, symbolic_context=sizes)

    fakes = {name: symbolic(value) for name, value in laid.items()}
    assert any(isinstance(size, torch.SymInt) for size in fakes[tensors_in(laid)[0]].shape)
    with mode:
        promised = tensors_of(operator(op)(**fakes))
    for real, fake in zip(tensors_of(operator(op)(**laid)), promised, strict=True):
        assert [int(size) for size in fake.shape] == list(real.shape)
        assert [int(stride) for stride in fake.stride()] == list(real.stride())
