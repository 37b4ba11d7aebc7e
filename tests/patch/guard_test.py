"""What happens to a patched model after the patch: a module that is no longer what the probe saw
takes its own forward, and the report says so."""

import copy
import functools
import inspect
from contextlib import contextmanager

import numpy
import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.guard import guard_of
from liger_jit.patch.installed import standing
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.source.compared import is_same
from tiny_models import (
    assert_same_step,
    batch,
    build,
    counted,
    error,
    loss_and_gradients,
    shape_of,
)
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3


def first(model):
    return model.model.layers[0]


def another_activation(model):
    first(model).mlp.act_fn = nn.ReLU()


def another_forward_of_the_activation(model):
    first(model).mlp.act_fn = nn.SiLU()
    first(model).mlp.act_fn.forward = lambda x: torch.relu(x)


def a_hook_on_the_activation(model):
    first(model).mlp.act_fn = copy.deepcopy(first(model).mlp.act_fn)
    first(model).mlp.act_fn.register_forward_hook(lambda module, args, output: output * 1.5)


def another_forward_of_the_class(model):
    class Doubled(modeling_llama.LlamaMLP):
        def forward(self, x):
            return 2 * super().forward(x)

    first(model).mlp.__class__ = Doubled


def another_class_of_a_norm(model):
    class Shifted(modeling_llama.LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 0.5

    first(model).post_attention_layernorm.__class__ = Shifted


def an_epsilon_that_is_a_tensor(model):
    first(model).post_attention_layernorm.variance_epsilon = torch.tensor(0.5)


def an_epsilon_that_is_a_vector(model):
    first(model).post_attention_layernorm.variance_epsilon = torch.full((32,), 0.5)


def another_epsilon(model):
    first(model).post_attention_layernorm.variance_epsilon = 0.5


def a_norm_without_a_weight_of_its_own(model):
    """A parametrization: the class changes, and the weight is computed at each use."""

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(
        first(model).post_attention_layernorm, "weight", Doubled()
    )


def a_forward_on_a_projection(model):
    layer = first(model).mlp.up_proj
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight)


CHANGES = [
    another_activation,
    another_forward_of_the_activation,
    a_hook_on_the_activation,
    another_forward_of_the_class,
    another_class_of_a_norm,
    another_epsilon,
    an_epsilon_that_is_a_tensor,
    an_epsilon_that_is_a_vector,
    a_norm_without_a_weight_of_its_own,
    a_forward_on_a_projection,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_after_the_patch_counts(change):
    model, reference = build(), build()
    untouched = loss_and_gradients(reference)
    change(reference)
    expected = loss_and_gradients(reference)
    with pytest.raises(AssertionError):
        assert_same_step(expected, untouched)
    patch(model)
    loss_and_gradients(model)
    change(model)
    assert_same_step(loss_and_gradients(model), expected)


def test_the_report_counts_the_calls_of_a_modules_own_forward_and_says_why():
    model = build()
    handle = patch(model)
    loss_and_gradients(model)
    assert {row.own_calls for row in handle.report()} == {0}
    first(model).mlp.act_fn = nn.ReLU()
    for _ in range(3):
        loss_and_gradients(model)
    rows = {row.path: row for row in handle.report()}
    assert rows["model.layers.0.mlp"].own_calls == 3
    assert rows["model.layers.1.mlp"].own_calls == 0
    assert "act_fn" in rows["model.layers.0.mlp"].why
    assert "its own forward 3 times: " in str(handle.report())


@contextmanager
def rebound(module, name, value):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def doubled(function):
    def call(*args, **kwargs):
        q, k = function(*args, **kwargs)
        return 2 * q, k

    return call


def attention_of_ones(module, query, key, value, attention_mask, **kwargs):
    return torch.ones_like(query).transpose(1, 2).contiguous(), None


GLOBALS = {
    "eager_attention_forward": lambda module: attention_of_ones,
    "apply_rotary_pos_emb": lambda module: doubled(module.apply_rotary_pos_emb),
    "rotate_half": lambda module: lambda x: 0.5 * x,
}


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_global_of_the_models_file_that_is_rebound_later_is_seen(family, name):
    module = modeling_llama if family == "Llama" else modeling_qwen3
    model, reference = build(family), build(family)
    untouched = loss_and_gradients(reference)
    patch(model)
    loss_and_gradients(model)
    with rebound(module, name, GLOBALS[name](module)):
        expected = loss_and_gradients(reference)
        with pytest.raises(AssertionError):
            assert_same_step(expected, untouched)
        assert_same_step(loss_and_gradients(model), expected)
    assert_same_step(loss_and_gradients(model), untouched)


@pytest.mark.parametrize("name, class_name", [("mlp", "LlamaMLP"), ("norm", "LlamaRMSNorm")])
def test_a_class_that_is_patched_later_is_seen(name, class_name):
    model, reference = build(), build()
    patch(model)
    owner = getattr(modeling_llama, class_name)
    own = owner.forward
    with rebound(owner, "forward", lambda self, x: 1.5 * own(self, x)):
        expected = loss_and_gradients(reference)
        assert_same_step(loss_and_gradients(model), expected)


class OptionalGate(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states, gate=None):
        if gate is not None:
            hidden_states = hidden_states * nn.functional.silu(gate)
        return super().forward(hidden_states)


@pytest.mark.parametrize("named", [False, True])
def test_a_norm_takes_no_argument_that_the_probe_did_not_try(named):
    norm = OptionalGate(16)
    holder = nn.Sequential(norm)
    holder.config = None
    patch(holder)
    assert standing(norm) is not None
    x, gate = torch.randn(2, 3, 16)
    found = norm(x, gate=gate) if named else norm(x, gate)
    assert torch.equal(found, OptionalGate.forward(norm, x, gate))
    assert error(norm(hidden_states=x), OptionalGate.forward(norm, x)) < 1e-6


def mamba(**flags):
    import transformers

    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        hidden_size=64, state_size=16, num_heads=8, head_dim=16, expand=2, n_groups=1,
        num_hidden_layers=2, vocab_size=320, chunk_size=16,
    )  # fmt: skip
    return transformers.Mamba2ForCausalLM(config).train()


def test_a_model_whose_norms_are_gated_trains_as_before():
    model = mamba()
    ids = torch.randint(3, 320, (2, 16), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "labels": ids}
    expected = loss_and_gradients(model, **inputs)
    patch(model)
    assert_same_step(loss_and_gradients(model, **inputs), expected)


def wrapped(module, calls):
    """As accelerate and many users do it: the wrapper has all attributes of what it wraps."""
    own = module.forward

    @functools.wraps(own)
    def forward(*args, **kwargs):
        calls.append(module)
        return own(*args, **kwargs)

    module.forward = forward


def parts_of(model):
    layer = first(model)
    return [
        layer,
        layer.self_attn,
        layer.mlp,
        layer.input_layernorm,
        layer.post_attention_layernorm,
        model.model.norm,
    ]


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_wrapper_around_a_forward_is_called_once_and_not_taken_for_ours(family):
    model = build(family)
    expected = loss_and_gradients(model)
    patch(model)
    calls, parts = [], parts_of(model)
    if family == "Qwen3":
        parts += [first(model).self_attn.q_norm, first(model).self_attn.k_norm]
    for module in parts:
        wrapped(module, calls)
    assert_same_step(loss_and_gradients(model), expected)
    assert sorted(map(id, calls)) == sorted(map(id, parts))


def test_a_wrapper_goes_on_over_the_own_forward_when_the_patch_is_taken_back(monkeypatch):
    model = build()
    expected = loss_and_gradients(model)
    handle = patch(model)
    calls, parts = [], parts_of(model)
    for module in parts:
        wrapped(module, calls)
    handle.unpatch()
    with counted(monkeypatch) as ours:
        found = loss_and_gradients(model)
    assert not ours
    assert len(calls) == len(parts)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())
    # Back again, under the wrappers that stayed.
    handle.apply()
    with counted(monkeypatch) as ours:
        assert_same_step(loss_and_gradients(model), expected)
    assert ours


def test_a_forward_that_somebody_kept_runs_the_modules_own_after_the_patch(monkeypatch):
    model = build()
    shape = shape_of(model)
    handle = patch(model)
    kept = first(model).mlp.forward
    x = torch.randn(2, 3, 32)
    handle.unpatch()
    assert shape_of(model) == shape
    with counted(monkeypatch) as ours:
        assert torch.equal(kept(x), modeling_llama.LlamaMLP.forward(first(model).mlp, x))
    assert not ours


def test_what_copies_a_modules_attributes_is_not_ours():
    model = build()
    patch(model)
    norm = model.model.norm
    other = object.__new__(type(norm))
    other.__dict__.update(norm.__dict__)
    assert standing(norm) is not None
    assert standing(other) is None


def test_a_deep_copy_has_a_switch_of_its_own(monkeypatch):
    model = build("Gemma")  # its activation holds a function that a copy makes anew
    handle = patch(model)
    twin = copy.deepcopy(model)
    handle.unpatch()
    with counted(monkeypatch) as calls:
        loss_and_gradients(twin)
    assert calls["gated_mlp"] == 2
    assert calls["fused_add_rms_norm"] == 2


def test_a_model_with_another_head_than_it_was_patched_with_is_copied():
    model = build()
    patch(model)
    model.lm_head = torch.nn.Linear(32, model.lm_head.out_features, bias=False)
    twin = copy.deepcopy(model)
    assert_same_step(loss_and_gradients(twin), loss_and_gradients(model))


@contextmanager
def watching(register):
    seen = []
    hook = register(lambda module, *rest: seen.append(type(module).__name__))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "register", [register_module_forward_hook, register_module_forward_pre_hook]
)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_hooks_of_all_modules_see_every_module(family, register):
    model = build(family)
    with watching(register) as expected:
        step = loss_and_gradients(model)
    patch(model)
    with watching(register) as found:
        assert_same_step(loss_and_gradients(model), step)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_call_that_a_tracer_puts_in_sees_every_module(family, monkeypatch):
    model, call, seen = build(family), nn.Module.__call__, []

    def watched(module, *args, **kwargs):
        seen.append(type(module).__name__)
        return call(module, *args, **kwargs)

    def watch():
        seen.clear()
        with monkeypatch.context() as patched:
            patched.setattr(nn.Module, "__call__", watched)
            return loss_and_gradients(model), sorted(seen)

    step, expected = watch()
    patch(model)
    found_step, found = watch()
    assert_same_step(found_step, step)
    assert found == expected


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_angles_that_are_trained_get_their_gradient(family):
    model = build(family)
    frequencies = nn.Parameter(model.model.rotary_emb.inv_freq.clone())

    def forward(x, position_ids):
        angles = position_ids[:, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    model.model.rotary_emb.forward = forward
    expected = loss_and_gradients(model), frequencies.grad.clone()
    frequencies.grad = None
    patch(model)
    assert_same_step(loss_and_gradients(model), expected[0])
    assert error(frequencies.grad, expected[1]) < 2e-5


def test_values_are_the_same_by_type_too_and_what_has_no_one_truth_is_another():
    assert is_same((1, 2.0, {"eps": None}), (1, 2.0, {"eps": None}))
    vector = torch.ones(3)
    for found, value in (
        ((1e-6,), (vector,)),
        ((vector,), (1e-6,)),
        ({"eps": vector}, {"eps": 1e-6}),
        (vector, 1e-6),
        (numpy.ones(3), 1.0),
        (1, True),
        ((1,), (1.0,)),
        ((1, 2), (1,)),
        ({"a": 1}, {"b": 1}),
    ):
        assert not is_same(found, value)


def test_a_flop_counter_counts_as_before():
    model = build()
    with FlopCounterMode(display=False) as expected:
        loss_and_gradients(model)
    patch(model)
    with FlopCounterMode(display=False) as found:
        loss_and_gradients(model)
    assert found.get_total_flops() == expected.get_total_flops()


def test_a_probe_calls_nobodys_hooks():
    model = build("Qwen3")
    seen = []

    def watch(module, *rest):
        seen.append(type(module).__name__)

    for module in model.modules():
        module.register_forward_hook(watch)
        module.register_forward_pre_hook(watch)
        if type(module).__name__ != "SiLU":
            module.register_full_backward_hook(watch)
    hook = register_module_forward_hook(watch)
    try:
        patch(model)
    finally:
        hook.remove()
    assert seen == []


class ReadsSettings(modeling_llama.LlamaMLP):
    def forward(self, x):
        y = super().forward(x)
        return y if self.config.hidden_act == "silu" else 2 * y


class Scaled(modeling_llama.LlamaMLP):
    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.scale


class Buffered(modeling_llama.LlamaRMSNorm):
    def __init__(self, size):
        super().__init__(size)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, hidden_states):
        return super().forward(hidden_states) * self.scale


@pytest.mark.parametrize(
    "make, read",
    [
        (lambda config: ReadsSettings(config), "uses .hidden_act"),
        (lambda config: Scaled(config), "reads the parameter scale"),
        (lambda config: Buffered(32), "reads the buffer scale"),
    ],
)
def test_what_no_guard_can_watch_is_left_alone(make, read):
    """Today's value hides it from a probe: settings, a scale of one that is trained later."""
    model = build()
    module = make(model.config)
    name = "mlp" if isinstance(module, modeling_llama.LlamaMLP) else "input_layernorm"
    setattr(first(model), name, module)
    status = {row.path: row.status for row in patch(model).report()}[f"model.layers.0.{name}"]
    assert read in status


def test_a_guard_tells_which_function_was_replaced(monkeypatch):
    norm = build("Gemma").model.norm
    guard = guard_of(norm, tensors=("weight",))
    assert guard.broken(norm) is None
    norm._norm = lambda x: x
    assert guard.broken(norm) == "_norm is another"
    del norm._norm
    norm.weight = nn.Parameter(torch.ones(32))
    assert guard.broken(norm) is None
    norm.register_parameter("weight", None)
    assert "weight" in guard.broken(norm)
    with pytest.raises(Mismatch, match="weight"):
        guard_of(build("Gemma").model.norm)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_weights_that_are_offloaded_later(family, where, tmp_path):
    import accelerate

    model = build(family).eval()
    inputs = batch()
    with torch.no_grad():
        expected = model(**inputs)
        patch(model)
        if where == "cpu":
            accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        else:
            accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
        found = model(**inputs)
    assert error(found.loss, expected.loss) < 1e-5
    assert error(found.logits, expected.logits) < 1e-5


@pytest.mark.parametrize("change", [another_activation, a_hook_on_the_activation])
def test_a_compiled_step_sees_what_was_changed_before_it(change):
    model, reference = build(num_hidden_layers=1), build(num_hidden_layers=1)
    change(reference)
    expected = loss_and_gradients(reference)
    patch(model)
    change(model)
    torch._dynamo.reset()
    step = torch.compile(model, backend="aot_eager")
    assert error(step(**batch()).loss, expected[0]) < 1e-5


OF_ALL_KINDS = ["", "model", "model.norm", "model.layers.0", "model.layers.0.mlp", "lm_head"]


@pytest.mark.parametrize("path", [*OF_ALL_KINDS, "model.layers.0.self_attn"])
def test_who_takes_all_wrappers_off_a_forward_finds_what_is_under_the_modules_own(path):
    model = build()
    module = model.get_submodule(path)
    own = inspect.unwrap(module.forward)
    patch(model)
    ours = module.forward
    while hasattr(ours, "__wrapped__"):
        ours = ours.__wrapped__
    if hasattr(type(module).forward, "__wrapped__"):
        assert ours is own
    else:
        assert ours == module.forward


@pytest.mark.parametrize("path", ["model.norm", "model.layers.0.mlp"])
def test_a_forward_of_ours_has_the_signature_of_the_modules_own(path):
    model = build()
    own = model.get_submodule(path).forward
    signature, arguments = inspect.signature(own), inspect.getfullargspec(own)
    patch(model)
    ours = model.get_submodule(path).forward
    assert ours != own
    assert inspect.signature(ours) == signature
    assert inspect.getfullargspec(ours) == arguments
