"""MLPs as one node: which models, what it keeps, and what sends a forward back to the modules."""

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.transformers import LigerMLP
from tiny_models import (
    FAMILIES,
    LowRank,
    assert_same_step,
    batch,
    build,
    counted,
    loss_and_gradients,
)
from torch import nn
from torch.nn.utils import parametrize
from transformers.models.llama.modeling_llama import LlamaMLP

FEW = ("Llama", "Gemma", "Phi3")


def mlps(model):
    return [layer.mlp for layer in model.model.layers]


def calls_of(model, monkeypatch):
    """(step, how often an MLP ran as one node, how often its activation alone was ours)."""
    with counted(monkeypatch) as calls:
        step = loss_and_gradients(model)
    return step, calls["gated_mlp"], calls["swiglu"] + calls["geglu"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_keeps_two_tensors_of_the_width_between(family, kept_bytes):
    model = build(family, torch.bfloat16)
    x = torch.randn(2, 64, 32, dtype=torch.bfloat16, requires_grad=True)
    mlp = mlps(model)[0]
    one = 2 * 64 * 48 * 2
    own = (x, *mlp.parameters())
    unpatched = kept_bytes(lambda: mlp(x), own)
    patch(model)
    assert kept_bytes(lambda: mlp(x), own) == 2 * one
    assert unpatched >= 4 * one


@pytest.mark.parametrize("family", ["Gemma2", "Gemma3"])
def test_the_other_gemmas(family, monkeypatch):
    model = build(family, final_logit_softcapping=None)
    expected = loss_and_gradients(model)
    patch(model)
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (2, 0)
    assert_same_step(found, expected, 1e-4)


def test_exact_gelu_is_the_one_that_runs(monkeypatch):
    model = build(hidden_act="gelu")
    expected = loss_and_gradients(model)
    patch(model)
    found, whole, _ = calls_of(model, monkeypatch)
    assert whole == 2
    assert_same_step(found, expected)


def with_a_hook(mlp):
    mlp.down_proj.register_forward_hook(lambda module, args, output: None)


def with_a_forward_of_its_own(mlp):
    own = mlp.down_proj.forward
    mlp.down_proj.forward = lambda x: own(x)


class Scale(nn.Module):
    def forward(self, weight):
        return weight * 1.5


def with_a_parametrized_weight(mlp):
    parametrize.register_parametrization(mlp.down_proj, "weight", Scale())


def with_a_bias(mlp):
    mlp.down_proj.bias = nn.Parameter(torch.ones(32))


def with_a_bias_that_is_a_buffer(mlp):
    del mlp.down_proj.bias
    mlp.down_proj.register_buffer("bias", torch.linspace(-1, 1, 32))


def with_a_bias_that_is_an_attribute(mlp):
    mlp.up_proj.__dict__["bias"] = torch.linspace(-1, 1, 48)


def with_an_adapter(mlp):
    mlp.down_proj = LowRank(mlp.down_proj)


class Sharded(torch.Tensor):
    """A tensor of another kind, as DTensor and quantised weights are."""


def with_a_weight_of_another_kind(mlp):
    weight = mlp.down_proj.weight.detach().as_subclass(Sharded)
    mlp.down_proj.weight = nn.Parameter(weight)
    assert type(mlp.down_proj.weight) is not nn.Parameter


def frozen(mlp):
    mlp.down_proj.weight.requires_grad_(False)


@pytest.mark.parametrize("after", [False, True], ids=["before the patch", "after the patch"])
@pytest.mark.parametrize(
    "change",
    [
        with_a_hook,
        with_a_forward_of_its_own,
        with_a_parametrized_weight,
        with_a_bias,
        with_a_bias_that_is_a_buffer,
        with_a_bias_that_is_an_attribute,
        with_an_adapter,
        with_a_weight_of_another_kind,
        frozen,
    ],
)
def test_a_projection_that_is_not_plain_is_called_as_a_module(change, after, monkeypatch):
    model = build()
    if after:
        patch(model)
    change(mlps(model)[1])
    reference = build()
    change(mlps(reference)[1])
    expected = loss_and_gradients(reference)
    if not after:
        assert {row.status for row in patch(model).report()} == {"patched"}
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (1, 1)
    assert_same_step(found, expected)


@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
def test_a_projection_that_is_a_function_is_called(name, monkeypatch):
    def change(mlp):
        projection = mlp.get_submodule(name)
        delattr(mlp, name)
        setattr(mlp, name, lambda x: projection(x) * 2)

    model, reference = build(), build()
    patch(model)
    for one in (model, reference):
        change(mlps(one)[1])
    expected = loss_and_gradients(reference)
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (1, 1)
    assert_same_step(found, expected)


@pytest.mark.parametrize("name", ["gate_proj", "down_proj"])
def test_a_sparse_weight_is_its_projections(name):
    model = build()
    handle = patch(model)
    for mlp in mlps(model):
        projection = mlp.get_submodule(name)
        sparse = projection.weight.detach().to_sparse_csr()
        projection.weight = nn.Parameter(sparse, requires_grad=False)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        found = model(ids).logits
        handle.unpatch()
        assert torch.allclose(found, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("family", FEW)
def test_projections_of_no_width_are_called(family):
    """As a pruned MLP has them."""

    def prune(mlp):
        for projection in mlp.children():
            if projection is mlp.down_proj:
                projection.weight = nn.Parameter(projection.weight.detach()[:, :0])
            elif isinstance(projection, nn.Linear):
                projection.weight = nn.Parameter(projection.weight.detach()[:0])

    model, reference = build(family), build(family)
    patch(model)
    for one in (model, reference):
        prune(mlps(one)[0])
    assert_same_step(loss_and_gradients(model), loss_and_gradients(reference))


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("kind", ["gated", "LigerMLP"])
def test_a_sparse_input_is_its_projections(layout, kind):
    model = build()
    mlp = mlps(model)[0] if kind == "gated" else LigerMLP(model.config)
    x = torch.randn(6, 32)
    with torch.no_grad():
        expected = mlp(x)
        patch(model)
        assert torch.allclose(mlp(getattr(x, layout)()), expected, atol=1e-6)


def a_nested_input():
    return torch.nested.nested_tensor([torch.ones(2, 32), torch.ones(3, 32)])


@pytest.mark.parametrize("make", [a_nested_input, lambda: torch.ones(2, 32, device="meta")])
def test_an_input_that_torch_takes_and_no_operator_does(make):
    (mlp, *_) = mlps(model := build())
    expected = mlp(make())
    patch(model)
    found = mlp(make())
    assert found.is_nested == expected.is_nested
    assert found.device == expected.device
    if found.is_nested:
        torch.testing.assert_close(found.values(), expected.values())


def a_gate_in_float64(mlp):
    next(mlp.children()).to(torch.float64)


def a_result_in_bfloat16(mlp):
    mlp.down_proj.to(torch.bfloat16)


def a_narrower_product(mlp):
    *inner, _ = mlp.children()
    for one in inner:
        if isinstance(one, torch.nn.Linear):
            one.weight = torch.nn.Parameter(one.weight[:-2].detach())


def a_gate_of_one_row(mlp):
    gate = next(mlp.children())
    gate.weight = torch.nn.Parameter(gate.weight[0].detach())


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize(
    "change",
    [None, a_gate_in_float64, a_result_in_bfloat16, a_narrower_product, a_gate_of_one_row],
)
def test_what_does_not_go_together_has_torchs_own_error(change, family):
    model = build(family)
    patch(model)
    (mlp, *_) = mlps(model)
    x = torch.ones(2, 3, 32)
    assert torch.isfinite(mlp(x)).all()
    if change is None:
        x = torch.ones(2, 3, 33)
    else:
        change(mlp)
    with pytest.raises((RuntimeError, IndexError), match="dtype|shapes|type|size") as caught:
        mlp(x)
    assert "liger" not in str(caught.value)


def test_an_input_of_a_layout_that_nobody_takes_has_the_modules_own_error():
    model, reference = build(), build()
    patch(model)
    x = torch.randn(6, 32).to_mkldnn()
    for path in ("mlp", "input_layernorm"):
        errors = []
        for one in (model, reference):
            with pytest.raises(RuntimeError) as caught:
                one.model.layers[0].get_submodule(path)(x)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("family", "trained", "nodes"),
    [
        ("Llama", ("down",), 0),
        ("Llama", ("gate", "up"), 0),
        ("Llama", ("gate", "down"), 2),
        ("Llama", ("up", "down"), 2),
        ("Phi3", ("down",), 0),
        ("Phi3", ("gate", "down"), 2),
    ],
)
def test_what_is_frozen_gets_no_gradient(family, trained, nodes, monkeypatch):
    """The node keeps x and what is between, which modules keep where an inner projection and the
    one down are trained."""
    model = build(family)
    for mlp in mlps(model):
        for name, weight in mlp.named_parameters():
            weight.requires_grad_(name.startswith(trained))
    expected = loss_and_gradients(model)
    patch(model)
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (nodes, 2 - nodes)
    assert_same_step(found, expected)


class NarrowMLP(LlamaMLP):
    """Reads its own width, so that a probe with a narrower one cannot prove it."""

    def forward(self, x):
        return super().forward(x.view(*x.shape[:-1], self.hidden_size))


def test_a_module_that_only_its_own_width_fits_keeps_the_activation_alone(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    mlps(model)[0].__class__ = NarrowMLP
    patch(model)
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (1, 1)
    assert_same_step(found, expected)


def test_an_operator_that_is_wrong_is_not_used(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    right = functional.gated_mlp
    monkeypatch.setattr(functional, "gated_mlp", lambda *inputs: right(*inputs) * 1.1)
    patch(model)
    found, whole, apart = calls_of(model, monkeypatch)
    assert (whole, apart) == (0, 2)
    assert_same_step(found, expected)


@pytest.mark.parametrize("family", FEW)
def test_a_compiled_training_step_holds_the_node(family, monkeypatch):
    model = build(family, num_hidden_layers=1)
    expected = loss_and_gradients(model)
    patch(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager", fullgraph=True)
    with counted(monkeypatch) as calls:
        loss = step(**batch()).loss
    assert calls["gated_mlp"] == 1
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same_step((loss.detach(), gradients), expected)


def test_evaluation_without_gradients_gives_the_same_logits(monkeypatch):
    model = build().eval()
    ids = batch()["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        patch(model)
        with counted(monkeypatch) as calls:
            found = model(input_ids=ids).logits
    assert calls["gated_mlp"] == 2
    torch.testing.assert_close(found, expected)


class CastsBack(LlamaMLP):
    """Under autocast its projections give 16 bits, and it gives what it got."""

    def forward(self, x):
        return super().forward(x).to(x.dtype)


class CastsInOneForward(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)).to(x.dtype)


@pytest.mark.parametrize("kind", [CastsBack, CastsInOneForward])
def test_a_result_has_the_dtype_of_the_modules_own_under_autocast(kind):
    model = build("Llama")
    for layer in model.model.layers:
        layer.mlp.__class__ = kind
    x = torch.randn(2, 5, model.config.hidden_size)
    mlp = mlps(model)[0]
    with torch.autocast("cpu", torch.bfloat16):
        expected = mlp(x)
        patch(model)
        found = mlp(x)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)
