"""The gated MLP by shards against float64: what is kept, what is alive, and the modules."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as torch_functional
from accuracy import assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit import transformers as liger
from liger_jit.functional import gated_mlp, tiled_mlp
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile

WRT = ("x", "gate_weight", "up_weight", "down_weight")
ACTIVATIONS = {
    "silu": torch_functional.silu,
    "gelu_tanh": lambda x: torch_functional.gelu(x, approximate="tanh"),
    "gelu": torch_functional.gelu,
}
CONFIG = SimpleNamespace(hidden_size=16, intermediate_size=24, hidden_act="silu")


def reference(x, gate_weight, up_weight, down_weight, activation="silu", shards=None):
    if up_weight is None:
        gate, up = linear(x, gate_weight).chunk(2, dim=-1)
    else:
        gate, up = linear(x, gate_weight), linear(x, up_weight)
    return linear(ACTIVATIONS[activation](gate) * up, down_weight)


def tensors(dtype, device, leading=(3, 15), hidden=24, width=40, out=24):
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


def slack(dtype):
    return {torch.float32: 1e-6, torch.float64: 1e-14}.get(dtype, 1e-3)


# Of 45 rows: one shard, two uneven ones, one a row, more than there are rows, and by itself.
@pytest.mark.parametrize("shards", [1, 2, 45, 100, None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_number_of_shards_is_as_exact_as_eager(device, shards, activation):
    for dtype in dtypes_of(device):
        inputs = tensors(dtype, device) | {"activation": activation, "shards": shards}
        assert_as_exact_as_eager(tiled_mlp, reference, inputs, WRT, slack_of_products=slack(dtype))


def test_packed_weights_are_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        inputs = tensors(dtype, device) | {"shards": 4}
        both = torch.cat((inputs["gate_weight"], inputs["up_weight"]))
        inputs |= {"gate_weight": both, "up_weight": None}
        wrt = ("x", "gate_weight", "down_weight")
        assert_as_exact_as_eager(tiled_mlp, reference, inputs, wrt, slack_of_products=slack(dtype))


def test_gradients_of_weights_do_not_get_worse_with_shards(device):
    """They would, rounded to 16 bits at each shard."""
    inputs = tensors(torch.bfloat16, device, leading=(512,))
    exact = {name: value.double() for name, value in inputs.items()}
    exact = run(reference, exact, WRT)

    def error(shards):
        found = run(tiled_mlp, inputs | {"shards": shards}, WRT)
        names = [f"gradient of {name}" for name in WRT[1:]]
        return sum((found[n].double() - exact[n]).norm() / exact[n].norm() for n in names)

    assert error(256) <= 1.05 * error(1)


def test_one_shard_has_the_bits_of_the_whole(device):
    inputs = tensors(torch.float32, device)
    wanted = run(gated_mlp, inputs, WRT)
    for name, value in run(tiled_mlp, inputs | {"shards": 1}, WRT).items():
        assert torch.equal(value, wanted[name]), name


def test_the_input_is_all_that_is_kept(device, kept_bytes):
    leaves = tensors(torch.bfloat16, device, leading=(64,))
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    assert kept_bytes(lambda: tiled_mlp(**leaves, shards=4), leaves.values()) == 0


def peak_bytes(run):
    """Most that is alive at once of what it allocates on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_what_is_alive_falls_with_shards():
    leaves = tensors(torch.float32, "cpu", leading=(2048,), hidden=8, width=256, out=8)
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    between = 2048 * 256 * 4  # gate, up or their product

    def peak(shards):
        def step():
            y = tiled_mlp(**leaves, shards=shards)
            torch.autograd.grad(y.sum(), list(leaves.values()))

        return peak_bytes(step)

    peak(16)  # what is made once
    rest = 2048 * 8 * 4 * 4 + 3 * 256 * 8 * 4  # x, y and their gradients; those of the weights
    for shards in (1, 2, 4, 8, 16):
        alive = 3 * between / shards
        assert alive <= peak(shards) <= 1.1 * alive + rest, shards


def test_peak_memory_falls_with_shards(cuda):
    inputs = tensors(torch.bfloat16, cuda, (8192,), hidden=256, width=4096, out=256)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    peaks = {}
    for shards in (1, 8, 8, 1):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = tiled_mlp(**leaves, shards=shards)
        torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))
        peaks[shards] = torch.cuda.max_memory_allocated() - before
        del y
    long = 8192 * 256 * 2  # x, y and their gradients
    weights = 3 * 256 * 4096
    between = 8192 * 4096 * 2
    assert peaks[1] >= 3 * between
    assert peaks[8] <= 3 * between // 8 + 4 * long + 8 * weights


@pytest.mark.parametrize("wrt", [*[(name,) for name in WRT], ("x", "down_weight"), WRT[:3]])
def test_only_what_requires_a_gradient_gets_one_and_its_bits_stay(device, wrt):
    inputs = tensors(torch.bfloat16, device) | {"shards": 4}
    every = run(tiled_mlp, inputs, WRT)
    some = run(tiled_mlp, inputs, wrt)
    for name in wrt:
        assert torch.equal(some[f"gradient of {name}"], every[f"gradient of {name}"]), name


def test_any_number_of_dimensions_and_no_rows_work(device):
    for leading in [(), (4,), (2, 3, 4), (0,), (2, 0)]:
        inputs = tensors(torch.float32, device, leading, out=11)
        result = run(tiled_mlp, inputs | {"shards": 2}, WRT)
        for name, value in run(reference, inputs, WRT).items():
            torch.testing.assert_close(result[name], value)


def test_autocast_casts_what_a_linear_layer_would(device):
    inputs = tensors(torch.float32, device) | {"shards": 3}
    with torch.autocast(device, torch.bfloat16):
        mine, eager = run(tiled_mlp, inputs, WRT), run(reference, inputs, WRT)
    assert mine["output 0"].dtype == torch.bfloat16
    for name, value in eager.items():
        assert mine[name].dtype == value.dtype
        assert (mine[name] - value).norm() <= 2e-2 * value.norm()


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_with_sizes_that_vary(device, dynamic):
    step = torch.compile(tiled_mlp, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for tokens in (5, 9):
        inputs = tensors(torch.float32, device, (2, tokens)) | {"shards": 3}
        wanted = run(tiled_mlp, inputs, WRT)
        for name, value in run(step, inputs, WRT).items():
            assert torch.equal(value, wanted[name]), name


def gradients_of(mlp, x):
    leaf = x.clone().requires_grad_()
    y = mlp(leaf)
    y.square().mean().backward()
    found = [y.detach(), leaf.grad, *(p.grad for p in mlp.parameters())]
    mlp.zero_grad()
    return found


@pytest.mark.parametrize("num_shards", [None, 1, 3])
@pytest.mark.parametrize("kind", ["LigerTiledSwiGLUMLP", "LigerTiledGEGLUMLP"])
@pytest.mark.parametrize("cast", [False, True])
def test_modules_that_are_called_by_shards_give_the_same(device, num_shards, kind, cast):
    """A hook makes a projection more than its weight; a frozen one has no gradient."""
    config = SimpleNamespace(**{**vars(CONFIG), "hidden_act": "silu" if "Swi" in kind else "gelu"})
    mlp = getattr(liger, kind)(config, num_shards).to(device)
    mlp.up_proj.weight.requires_grad_(False)
    x = torch.randn(2, 33, 16, device=device)
    with torch.autocast(device, torch.bfloat16, enabled=cast):
        wanted = gradients_of(mlp, x)
        hook = mlp.gate_proj.register_forward_hook(lambda *_: None)
        mine = gradients_of(mlp, x)
        hook.remove()
    for a, b in zip(mine, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(
                a, b, rtol=5e-2 if cast else 1e-4, atol=2e-3 if cast else 1e-5
            )


@pytest.mark.parametrize("approximate", ["tanh", "none", "sigmoid"])
def test_the_form_of_gelu_is_read_at_each_forward(device, approximate):
    config = SimpleNamespace(hidden_size=16, intermediate_size=24)
    tiled, whole = (
        kind(config).to(device) for kind in (liger.LigerTiledGEGLUMLP, liger.LigerGEGLUMLP)
    )
    whole.load_state_dict(tiled.state_dict())
    x = 3 * torch.randn(5, 16, device=device)
    tiled.approximate = whole.approximate = approximate
    torch.testing.assert_close(tiled(x), whole(x), rtol=1e-5, atol=1e-6)
    tiled.approximate = "erf"
    assert_refused(lambda: tiled(x), "geglu", "approximate", "erf")


def test_an_error_in_a_shard_leaves_nothing_behind(device):
    mlp = liger.LigerTiledGEGLUMLP(SimpleNamespace(hidden_size=16, intermediate_size=24)).to(device)
    mlp.approximate = "erf"
    with pytest.raises(ValueError) as held:
        mlp(torch.randn(5, 16, device=device))
    # Were it still under the checkpoint of the shard, its gradient would run the shard again.
    x = torch.randn(3, device=device, requires_grad=True)
    (x * x).sum().backward()
    assert torch.equal(x.grad, 2 * x)
    del held


def test_hooks_of_parameters_see_a_gradient_once(device):
    mlp = liger.LigerTiledSwiGLUMLP(CONFIG, 4).to(device)
    seen = []
    for parameter in mlp.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    mlp(torch.randn(12, 16, device=device)).sum().backward()
    assert len(seen) == 3


def test_errors_name_the_argument_and_what_is_allowed(device):
    inputs = tensors(torch.float32, device)

    def refused(*words, **changed):
        assert_refused(lambda: tiled_mlp(**inputs | changed), "tiled_mlp", *words)

    refused("activation", "relu", "silu", activation="relu")
    refused("shards", "0", "1 or more", shards=0)
    refused("shards", "-1", shards=-1)
    refused("gate_weight", r"\[40, 23\]", "24", gate_weight=inputs["gate_weight"][:, :23])
    for kind in (liger.LigerTiledSwiGLUMLP, liger.LigerTiledGEGLUMLP):
        name = SimpleNamespace(**{**vars(CONFIG), "hidden_act": "relu"})
        assert_refused(lambda kind=kind, name=name: kind(name), kind.__name__, "relu")
        fitting = SimpleNamespace(hidden_size=16, intermediate_size=24, hidden_act="silu")
        if kind is liger.LigerTiledSwiGLUMLP:
            assert_refused(lambda kind=kind, c=fitting: kind(c, 0), "num_shards", "0")
