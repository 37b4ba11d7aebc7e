"""What is not proved stays as it was, with a reason that says why."""

import copy

import liger_jit
import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, build, loss_and_gradients, shape_of
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm


def statuses(model, **flags):
    return {row.path: row.status for row in patch(model, **flags).report()}


def test_an_unknown_activation():
    model = build(hidden_act="relu")
    expected = loss_and_gradients(model)
    assert "relu" in statuses(model)["model.layers.0.mlp"]
    assert "forward" not in model.model.layers[0].mlp.__dict__
    assert_same_step(loss_and_gradients(model), expected)


class ScaledMLP(LlamaMLP):
    def forward(self, x):
        return super().forward(x) * 1.01


class DropoutMLP(LlamaMLP):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.3, self.training)


class LeakyNorm(LlamaRMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states) + 1e-3 * hidden_states


class DetachedNorm(LlamaRMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states.detach()) + 0 * hidden_states


class GatedNorm(LlamaRMSNorm):
    def forward(self, hidden_states, gate):
        return super().forward(hidden_states) * gate


class CastingNorm(LlamaRMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states.to(self.weight.dtype))


class CappedNorm(LlamaRMSNorm):
    """Of a usual weight it is the usual norm."""

    cap = 1e4

    def forward(self, hidden_states):
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (torch.tanh(self.weight * x / self.cap) * self.cap).to(hidden_states.dtype)


__GAIN = _MangledNorm__GAIN = 1.0


class MangledNorm(LlamaRMSNorm):
    """Python reads the second of these names."""

    def forward(self, hidden_states):
        dtype = hidden_states.dtype
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x.to(dtype) * __GAIN


class MarkedNorm(LlamaRMSNorm):
    extra = None

    def forward(self, hidden_states):
        dtype = hidden_states.dtype
        x = hidden_states.to(torch.float32)
        if self.extra is not None:
            x = x * self.extra
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x.to(dtype)

    forward.mark = "a decorator left it"


@pytest.mark.parametrize("lie", [ScaledMLP, DropoutMLP])
def test_an_mlp_whose_class_lies(lie):
    model = build()
    model.model.layers[1].mlp.__class__ = lie
    found = statuses(model)
    assert found["model.layers.0.mlp"] == "patched"
    assert found["model.layers.1.mlp"] != "patched"
    assert "forward" not in model.model.layers[1].mlp.__dict__


@pytest.mark.parametrize(
    "lie, reason",
    [
        (LeakyNorm, "no known norm"),
        (DetachedNorm, "uses .detach"),
        (GatedNorm, "no known gated norm"),
        (CappedNorm, "the formula: output differs"),
        (MangledNorm, "may have another name in its class"),
    ],
)
def test_a_norm_whose_class_lies(lie, reason):
    model = build()
    model.model.norm.__class__ = lie
    assert reason in statuses(model)["model.norm"]


def test_what_is_none_and_goes_away_is_missed():
    model = build()
    norm = model.model.norm
    norm.__class__, norm.extra = MarkedNorm, None
    assert statuses(model)["model.norm"] == "patched"
    assert norm.forward.mark == MarkedNorm.forward.mark
    loss_and_gradients(model)
    del norm.extra
    loss_and_gradients(model)  # its class has one
    extra, MarkedNorm.extra = MarkedNorm.extra, 2.0
    assert torch.equal(norm(x := torch.randn(3, 32)), MarkedNorm.forward(norm, x))
    del MarkedNorm.extra
    with pytest.raises(AttributeError, match="extra"):
        norm(x)
    MarkedNorm.extra = extra


def test_a_norm_that_casts_is_patched_where_there_is_nothing_to_cast():
    model = build()
    norm = model.model.norm
    norm.__class__ = CastingNorm
    assert statuses(model)["model.norm"] == "patched"
    x = torch.randn(3, norm.weight.shape[0])
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(norm(x.to(dtype)), CastingNorm.forward(norm, x.to(dtype)))
        assert norm(x.to(dtype)).dtype == torch.float32


def test_an_instance_whose_epsilon_differs_is_judged_apart():
    model = build()
    model.model.norm.variance_epsilon = 1e-3
    expected = loss_and_gradients(model)
    assert set(statuses(model).values()) == {"patched"}
    assert_same_step(loss_and_gradients(model), expected)


def test_a_rotary_function_with_other_maths(monkeypatch):
    from transformers.models.llama import modeling_llama

    def interleaved(q, k, cos, sin, unsqueeze_dim=1):
        return q * cos.unsqueeze(unsqueeze_dim), k * sin.unsqueeze(unsqueeze_dim)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", interleaved)
    status = statuses(build())["model.layers.0.self_attn"]
    assert "rotating 8 of 8: output differs" in status


def test_forwards_that_are_replaced_already_are_left():
    model = build()
    norm = model.model.norm
    norm.forward = lambda x: LlamaRMSNorm.forward(norm, x) * 2
    before = norm.forward
    handle = patch(model)
    assert "already replaced" in {r.path: r.status for r in handle.report()}["model.norm"]
    handle.unpatch()
    assert norm.__dict__["forward"] is before


def test_what_was_put_over_ours_stays_when_we_leave():
    model = build()
    handle = patch(model)
    norm = model.model.norm
    ours = norm.forward
    norm.forward = wrapped = lambda x: ours(x) * 2
    handle.unpatch()
    assert norm.__dict__["forward"] is wrapped


def test_hub_kernels_keep_the_model():
    model = build()
    model._use_kernels = True
    found = statuses(model, fused_linear_cross_entropy=False)
    assert set(found.values()) == {"hub kernels own it"}


def test_hooks_on_an_activation_are_kept():
    model = build()
    called = []
    mlp = model.model.layers[0].mlp
    mlp.act_fn = copy.deepcopy(mlp.act_fn)
    mlp.act_fn.register_forward_hook(lambda *args: called.append(1))
    found = statuses(model)
    assert "hooks" in found["model.layers.0.mlp"]
    assert not called
    loss_and_gradients(model)
    assert called


def test_hooks_on_patched_modules_and_projections_run():
    model = build()
    seen = []
    for module in (model.model.norm, model.model.layers[0].mlp.up_proj, model.lm_head):
        module.register_forward_hook(lambda module, args, output: seen.append(module))
    patch(model)
    loss_and_gradients(model)
    assert len(seen) == 3


class PackedLinear(nn.Module):
    """A quantised projection: no floating weight, the features of a linear layer."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().max() / 127
        packed = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def test_packed_projections_are_called_as_modules():
    model = build()
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, PackedLinear(getattr(layer.mlp, name)))
    expected = loss_and_gradients(model)
    assert statuses(model)["model.layers.0.mlp"] == "patched"
    assert_same_step(loss_and_gradients(model), expected)


def test_a_norm_whose_own_forward_raises_is_left_alone():
    model = nn.Sequential(nn.LayerNorm(32), nn.LayerNorm(32))
    model[0].weight.data = model[0].weight.data.bfloat16()
    found = statuses(model)
    assert "the module's own fails in the probe" in found["0"]
    assert found["1"] == "patched"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
@pytest.mark.parametrize("family", ["Llama", "Gemma", "Qwen3", "Olmo2"])
def test_norms_whose_weights_are_stored_in_another_dtype_are_left_alone(family, dtype):
    model = build(family)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            for name, weight in module._parameters.items():
                stored = weight.detach().to(dtype)
                module._parameters[name] = nn.Parameter(stored, requires_grad=False)
    found = statuses(model)
    norms = [status for path, status in found.items() if path.endswith("norm")]
    assert norms and all("packed" in status for status in norms)
    assert "patched" in found.values()


def test_a_rotation_of_nothing_is_left_alone():
    model = build("StableLm", hidden_size=16, head_dim=4)
    expected = loss_and_gradients(model)
    found = statuses(model)
    assert found["model.layers.0.self_attn"] == "it rotates nothing of a head of 4"
    assert_same_step(loss_and_gradients(model), expected)


def test_a_head_that_is_not_initialised_is_left_alone():
    model = build()
    model.lm_head.weight = nn.parameter.UninitializedParameter()
    found = statuses(model)
    assert found[""] == "the head's weight is not initialised yet"
    assert found["model.norm"] == "patched"


def test_weights_on_meta():
    with torch.device("meta"):
        model = build()
    found = statuses(model)
    assert set(found.values()) == {"patched"}
    real = build()
    expected = loss_and_gradients(real)
    model.to_empty(device="cpu")
    model.load_state_dict(real.state_dict())
    model.model.rotary_emb = real.model.rotary_emb
    assert_same_step(loss_and_gradients(model), expected)


def test_unknown_flags_and_two_losses_are_errors():
    model = build()
    shape = shape_of(model)
    with pytest.raises(TypeError, match="does not know swigluu.*rms_norm"):
        patch(model, swigluu=True)
    with pytest.raises(ValueError, match="choose one"):
        patch(model, cross_entropy=True)
    assert shape_of(model) == shape


def test_probes_leave_random_state_and_grad_mode_alone():
    model = build()
    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert set(statuses(model).values()) == {"patched"}
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_no_operator_runs_where_the_model_is_not():
    """Formulas are proved in plain torch: a model elsewhere needs no compiler of this machine."""
    with torch.device("meta"):
        model = build("Qwen3")
    before = liger_jit.stats()["counters"]
    handle = patch(model)
    assert {row.status for row in handle.report()} == {"patched"}
    assert liger_jit.stats()["counters"] == before
