"""The gated MLP as one node against float64: activations, packed weights, what is kept, masks."""

from functools import partial

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run, strided_forms
from liger_jit.bench.cpu_memory import peak_bytes
from liger_jit.functional import gated_mlp
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

WRT = ("x", "gate_weight", "up_weight", "down_weight")
ACTIVATIONS = {
    "silu": torch_functional.silu,
    "gelu_tanh": lambda x: torch_functional.gelu(x, approximate="tanh"),
    "gelu": torch_functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
# Products of other shapes may add in another order.
PRODUCTS = 1e-3


def reference(
    x,
    gate_weight,
    up_weight,
    down_weight,
    activation="silu",
    gate_multiplier=1.0,
    down_multiplier=1.0,
):
    if up_weight is None:
        gate, up = linear(x, gate_weight).chunk(2, dim=-1)
    else:
        gate, up = linear(x, gate_weight), linear(x, up_weight)
    gated = ACTIVATIONS[activation](gate * gate_multiplier) * up
    return linear(gated, down_weight) * down_multiplier


def tensors(dtype, device, leading=(3, 5), hidden=24, width=40, out=24):
    shapes = {
        "x": (*leading, hidden),
        "gate_weight": (width, hidden),
        "up_weight": (width, hidden),
        "down_weight": (out, width),
    }
    inputs = {name: torch.randn(shape, device=device) for name, shape in shapes.items()}
    for name in WRT[1:]:
        inputs[name] *= inputs[name].shape[1] ** -0.5
    return {name: value.to(dtype) for name, value in inputs.items()}


def packed(inputs):
    both = torch.cat((inputs["gate_weight"], inputs["up_weight"]))
    return inputs | {"gate_weight": both, "up_weight": None}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_dtype_is_as_exact_as_eager(device, activation):
    for dtype in dtypes_of(device):
        inputs = tensors(dtype, device) | {"activation": activation}
        assert_as_exact_as_eager(gated_mlp, reference, inputs, WRT, slack_of_products=slack(dtype))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_multipliers_are_as_exact_as_eager(device, activation):
    options = {"activation": activation, "gate_multiplier": 0.88, "down_multiplier": 0.3}
    for dtype in dtypes_of(device):
        inputs = tensors(dtype, device) | options
        assert_as_exact_as_eager(gated_mlp, reference, inputs, WRT, slack_of_products=slack(dtype))


def slack(dtype):
    return {torch.float32: 1e-6, torch.float64: 1e-14}.get(dtype, PRODUCTS)


# 1 and 7: no vector load fits; 129: one over a power of two; 20000: longer than any block.
@pytest.mark.parametrize("width", [1, 7, 129, 1000, 20000])
def test_every_width_is_as_exact_as_eager_in_bfloat16(device, width):
    inputs = tensors(torch.bfloat16, device, hidden=8, width=width, out=16)
    assert_as_exact_as_eager(gated_mlp, reference, inputs, WRT, slack_of_products=PRODUCTS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_packed_weights_are_as_exact_as_eager(device, activation):
    wrt = ("x", "gate_weight", "down_weight")
    for dtype in dtypes_of(device):
        inputs = packed(tensors(dtype, device)) | {"activation": activation}
        assert_as_exact_as_eager(gated_mlp, reference, inputs, wrt, slack_of_products=slack(dtype))


def test_gate_and_up_are_all_that_is_kept(device, kept_bytes):
    inputs = tensors(torch.bfloat16, device, leading=(64,))
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    one = 64 * inputs["gate_weight"].shape[0] * 2
    assert kept_bytes(lambda: gated_mlp(**leaves), leaves.values()) == 2 * one
    assert kept_bytes(lambda: reference(**leaves), leaves.values()) == 4 * one


@pytest.mark.parametrize("wrt", [*[(name,) for name in WRT], ("x", "down_weight"), WRT[:3]])
def test_only_what_requires_a_gradient_gets_one_and_its_bits_stay(device, wrt):
    inputs = tensors(torch.bfloat16, device)
    every = run(gated_mlp, inputs, WRT)
    some = run(gated_mlp, inputs, wrt)
    for name in wrt:
        assert torch.equal(some[f"gradient of {name}"], every[f"gradient of {name}"]), name


def test_gradients_that_nobody_wants_are_not_made(device):
    values = tensors(torch.float32, device)
    native = torch.ops.liger_jit
    y, gate, up = native.gated_mlp(**values)
    for wanted in range(4):
        mask = [place == wanted for place in range(4)]
        made = native.gated_mlp_backward(
            torch.ones_like(y), *values.values(), gate, up, 0, 1.0, 1.0, mask
        )
        assert [gradient.numel() > 0 for gradient in made] == mask


def test_a_backward_changes_nothing_that_is_kept(device):
    inputs = tensors(torch.bfloat16, device)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    y, gate, up = torch.ops.liger_jit.gated_mlp(**leaves)
    copies = gate.clone(), up.clone()
    dy = torch.randn_like(y)
    kept = dy.clone()
    first = torch.autograd.grad(y, list(leaves.values()), dy, retain_graph=True)
    again = torch.autograd.grad(y, list(leaves.values()), dy)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(gate, copies[0])
    assert torch.equal(up, copies[1])
    assert torch.equal(dy, kept)
    assert all(torch.equal(leaves[name], value) for name, value in before.items())


def test_views_give_the_result_of_their_copies(device):
    inputs = tensors(torch.float32, device, leading=(16,))
    wanted = run(gated_mlp, inputs, WRT)
    for name in WRT:
        for form, view in strided_forms(inputs[name]):
            result = run(gated_mlp, inputs | {name: view}, WRT)
            for key, value in wanted.items():
                torch.testing.assert_close(result[key], value, msg=f"{key}: {form} of {name}")


def test_an_expanded_grad_output_gradient_is_read_as_it_is(device):
    inputs = tensors(torch.float32, device)
    ones = run(gated_mlp, inputs, WRT)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    gated_mlp(**leaves).sum().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, ones[f"gradient of {name}"])


def test_any_number_of_dimensions_and_no_rows_work(device):
    for leading in [(), (4,), (2, 3), (2, 3, 4), (0,), (2, 0)]:
        inputs = tensors(torch.float32, device, leading, out=11)
        result = run(gated_mlp, inputs, WRT)
        wanted = run(reference, inputs, WRT)
        for name, value in wanted.items():
            torch.testing.assert_close(result[name], value)


def test_autocast_casts_what_a_linear_layer_would(device):
    inputs = tensors(torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        mine, eager = run(gated_mlp, inputs, WRT), run(reference, inputs, WRT)
    assert mine["output 0"].dtype == torch.bfloat16
    for name, value in eager.items():
        assert mine[name].dtype == value.dtype
        assert (mine[name] - value).norm() <= 2e-2 * value.norm()


def test_a_backward_under_autocast_keeps_the_dtype_of_its_forward(device):
    inputs = tensors(torch.float32, device)
    wanted = run(gated_mlp, inputs, WRT)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    y = gated_mlp(**leaves)
    with torch.autocast(device, torch.bfloat16):
        y.backward(torch.ones_like(y))
    for name, leaf in leaves.items():
        assert torch.equal(leaf.grad, wanted[f"gradient of {name}"]), name


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_with_sizes_that_vary(device, dynamic):
    step = torch.compile(gated_mlp, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for tokens in (5, 9):
        for inputs in (tensors(torch.float32, device, (2, tokens)),):
            wanted = run(gated_mlp, inputs, WRT)
            for name, value in run(step, inputs, WRT).items():
                assert torch.equal(value, wanted[name]), name
        wrt = ("x", "gate_weight", "down_weight")
        wanted = run(gated_mlp, packed(inputs), wrt)
        for name, value in run(step, packed(inputs), wrt).items():
            assert torch.equal(value, wanted[name]), name


def test_errors_name_the_argument_and_what_is_allowed(device):
    inputs = tensors(torch.float32, device)

    def refused(*words, **changed):
        assert_refused(lambda: gated_mlp(**inputs | changed), "gated_mlp", *words)

    refused("activation", "relu", "silu", activation="relu")
    refused("gate_weight", r"\[40, 23\]", "24", gate_weight=inputs["gate_weight"][:, :23])
    refused("up_weight", "39", up_weight=inputs["up_weight"][:39])
    refused("down_weight", r"\[24, 40\]", "20", gate_weight=inputs["gate_weight"], up_weight=None)
    refused("gate_weight", "even", gate_weight=inputs["gate_weight"][:39], up_weight=None)
    refused("down_weight", "bf16|bfloat16", down_weight=inputs["down_weight"].bfloat16())
    refused("down_weight", "2 dimensions", down_weight=inputs["down_weight"][0])
    refused("x", "no dimensions", x=inputs["x"][0, 0, 0])
    assert_refused(lambda: torch.ops.liger_jit.gated_mlp(*inputs.values(), 4), "activation", "4")
    # With a node as well, which is made of two operators.
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    refused("up_weight", "39", up_weight=inputs["up_weight"][:39])
    refused("down_weight", "2 dimensions", down_weight=inputs["down_weight"][0])


def products_of(work):
    with torch.profiler.profile() as profile:
        work()
    ours = ("aten::mm", "aten::addmm")
    return sum(event.count for event in profile.key_averages() if event.key in ours)


@pytest.mark.parametrize("form", ["apart", "packed"])
def test_a_checkpoint_runs_no_product_again_that_it_does_not_need(device, form):
    inputs = tensors(torch.float32, device)
    inputs = inputs if form == "apart" else packed(inputs)
    leaves = {k: v if v is None else v.requires_grad_() for k, v in inputs.items()}
    given = [value for value in leaves.values() if value is not None]
    layer = partial(gated_mlp, **leaves)
    wanted = torch.autograd.grad(layer().sum(), given)
    found = []

    def step():
        y = checkpoint(layer, use_reentrant=False)
        found.append(torch.autograd.grad(y.sum(), given))

    inner = 2 if form == "apart" else 1
    forward, backward = inner + 1, 2 * inner + 2
    assert products_of(step) == forward + inner + backward
    with set_checkpoint_early_stop(False):
        assert products_of(step) == forward + forward + backward
    for gradients in found:
        assert all(map(torch.equal, gradients, wanted))


def test_a_checkpoints_backward_writes_over_gate_and_up():
    rows, width = 1024, 512
    inputs = tensors(torch.float32, "cpu", (rows,), hidden=16, width=width, out=16)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}

    def step():
        y = checkpoint(partial(gated_mlp, **leaves), use_reentrant=False)
        return torch.autograd.grad(y.sum(), list(leaves.values()))

    step()  # compiles
    # Gate, up and the product's gradient; not gradients of gate and up beside them.
    assert peak_bytes(step) < 3.5 * rows * width * 4


def test_what_a_node_is_made_of_is_the_op(device):
    inputs = tensors(torch.float32, device)
    for one in (inputs, packed(inputs)):
        native = torch.ops.liger_jit
        options = (1, 1.5, 0.5)
        y, *kept = native.gated_mlp(*(one[name] for name in WRT), *options)
        found = native.gated_mlp_kept(*(one[name] for name in WRT), *options)
        assert all(map(torch.equal, found, kept))
        assert torch.equal(native.gated_mlp_finished(*(one[n] for n in WRT), *options, *kept), y)


def test_a_last_backward_makes_its_gradients_in_what_was_kept(device):
    inputs = tensors(torch.float32, device)
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y = gated_mlp(**leaves)
    y.backward(torch.ones_like(y))
    for backward, writes in (("gated_mlp_backward", False), ("gated_mlp_backward_", True)):
        y, gate, up = torch.ops.liger_jit.gated_mlp(**inputs)
        before = gate.clone(), up.clone()
        gradients = getattr(torch.ops.liger_jit, backward)(
            torch.ones_like(y), *inputs.values(), gate, up, 0, 1.0, 1.0, [True] * 4
        )
        assert torch.equal(gate, before[0]) is torch.equal(up, before[1]) is not writes
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            assert torch.equal(leaf.grad, gradient), name


def leaves(device):
    return {name: value.requires_grad_() for name, value in tensors(torch.float32, device).items()}


def backward_of(y, **options):
    """The name of the operator that the backward calls."""
    with torch.profiler.profile() as profile:
        y.sum().backward(**options)
    names = {event.key for event in profile.key_averages()}
    (called,) = (name for name in names if name.startswith("liger_jit::gated_mlp_backward"))
    return called.removeprefix("liger_jit::")


def test_the_last_backward_alone_overwrites(device):
    inputs = leaves(device)
    y = gated_mlp(**inputs)
    assert backward_of(y, retain_graph=True) == "gated_mlp_backward"
    assert backward_of(y) == "gated_mlp_backward_"


@pytest.mark.parametrize("held", ["gate", "up", "a view", "what hooks packed"])
def test_what_somebody_else_holds_is_not_written(device, held):
    inputs = leaves(device)
    packed_by_hooks = []
    if held == "what hooks packed":
        with torch.autograd.graph.saved_tensors_hooks(
            lambda kept: packed_by_hooks.append(kept) or kept, lambda kept: kept
        ):
            y = gated_mlp(**inputs)
        tensor = packed_by_hooks[-1]
    else:
        y, gate, up = torch.ops.liger_jit.gated_mlp(**inputs)
        tensor = {"gate": gate, "up": up, "a view": gate[0]}[held]
        del gate, up
    before = tensor.clone()
    assert backward_of(y) == "gated_mlp_backward"
    assert torch.equal(tensor, before)


def test_a_last_backward_that_failed_is_not_tried_again(device):
    """It may have overwritten what it would read, as where memory runs out halfway."""
    inputs = leaves(device)
    shape = inputs["down_weight"].shape
    wrong = True

    def unpacked(kept):
        return (kept[:, 1:] if wrong and kept.shape == shape else kept).clone()

    # A copy is the node's alone.
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, unpacked):
        y = gated_mlp(**inputs)
    loss = y.sum()
    with pytest.raises(ValueError, match="down_weight"):
        torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))
    wrong = False
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_transforms_take_the_backward_that_overwrites_nothing(device):
    inputs = leaves(device)
    wrt = list(inputs.values())
    rows = torch.randn(2, 3, 5, 24, device=device)
    wanted = [torch.autograd.grad(gated_mlp(**inputs), wrt, row) for row in rows]

    found = torch.autograd.grad(gated_mlp(**inputs), wrt, rows, is_grads_batched=True)
    for one, *each in zip(found, *wanted, strict=True):
        torch.testing.assert_close(one, torch.stack(each))

    _, pull = torch.func.vjp(lambda x: gated_mlp(x, *wrt[1:]), inputs["x"].detach())
    with torch.no_grad():
        torch.testing.assert_close(pull(rows[0], retain_graph=False)[0], wanted[0][0])


def test_a_tangent_of_the_gradient_is_refused_by_a_last_backward_too(device):
    inputs = leaves(device)
    y = gated_mlp(**inputs)
    with torch.autograd.forward_ad.dual_level():
        dy = torch.autograd.forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(NotImplementedError, match="forward AD"):
            torch.autograd.grad(y, list(inputs.values()), dy)


def test_the_mlp_needs_no_more_memory_than_its_gradients(cuda):
    """Beside what the forward keeps: the product's gradient, and results."""
    inputs = tensors(torch.bfloat16, cuda, (2048,), hidden=256, width=4096, out=256)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    for repetition in range(2):
        y = gated_mlp(**leaves)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        dy = torch.ones_like(y)
        gradients = torch.autograd.grad(y, list(leaves.values()), dy)
        peak = torch.cuda.max_memory_allocated() - before
        results = sum(tensor.nbytes for tensor in (dy, *gradients))
        if repetition:  # the first brings cuBLAS's workspace
            assert peak <= 2048 * 4096 * 2 + results + (1 << 20)
        del y, gradients
