"""The rule for stacked experts: models train as unpatched, and what it cannot see is left alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from family_models import SMALL, inputs_of, step_of, tiny
from liger_jit.patch import patch
from liger_jit.patch.rules.experts import _grouped, has_grouped_product, is_multiplied_fast
from torch import nn
from torch.nn.utils import parametrize
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

# Whose experts become one node; what a type of model has that is none of these is the other test.
FUSED = (
    "mixtral",
    "qwen3_moe",
    "qwen3_next",
    "deepseek_v3",
    "gpt_oss",
    "glm4_moe",
    "olmoe",
    "granitemoe",
    "jamba",
)
LEFT_ALONE = ("llama4_text",)


def experts_of(model):
    return {
        path: module
        for path, module in model.named_modules()
        if type(module).__name__.endswith("Experts")
    }


def model_of(model_type):
    """A small one; Jamba's takes no kinds of layers."""
    if model_type != "jamba":
        return tiny(model_type)
    torch.manual_seed(1)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    more = ("num_key_value_heads", "num_experts", "num_experts_per_tok", "num_hidden_layers")
    config = transformers.JambaConfig(
        **{name: SMALL[name] for name in (*names, *more, "pad_token_id")},
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=1,
        expert_layer_offset=0,
        use_mamba_kernels=False,
    )
    model = transformers.JambaForCausalLM(config).float().train()
    return model, inputs_of(model)


def rows_of(handle, model):
    paths = experts_of(model)
    return [row for row in handle.report() if row.path in paths]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        error = (found[1][name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 2e-4, name


@pytest.mark.parametrize("model_type", FUSED)
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_models_train_as_unpatched(model_type, implementation):
    model, inputs = model_of(model_type)
    model.set_experts_implementation(implementation)
    expected = step_of(model, inputs)
    handle = patch(model)
    rows = rows_of(handle, model)
    assert rows
    assert all(row.patched for row in rows), str(handle.report())
    assert_same(step_of(model, inputs), expected)
    assert not any(row.own_calls for row in rows_of(handle, model)), str(handle.report())


def test_a_routing_of_an_inference_mode_is_none_that_a_node_keeps():
    model, inputs = tiny("qwen3_moe")
    for layer in model.model.layers:
        layer.mlp.gate.forward = torch.inference_mode()(layer.mlp.gate.forward)
    expected = step_of(model, inputs)
    handle = patch(model)
    rows = rows_of(handle, model)
    assert all(row.patched for row in rows), str(handle.report())
    assert_same(step_of(model, inputs), expected)
    assert {row.own_calls for row in rows_of(handle, model)} == {1}


@pytest.mark.parametrize("model_type", LEFT_ALONE)
def test_what_is_no_such_module_is_left_alone_and_trains(model_type):
    model, inputs = tiny(model_type)
    expected = step_of(model, inputs)
    handle = patch(model)
    assert not any(row.patched for row in rows_of(handle, model))
    assert_same(step_of(model, inputs), expected)


@pytest.fixture(autouse=True)
def implementations():
    """As they were, after each test."""
    mapping = ALL_EXPERTS_FUNCTIONS._global_mapping
    saved = dict(mapping)
    yield
    mapping.clear()
    mapping.update(saved)


@pytest.fixture
def mixtral():
    return tiny("mixtral")


def one_call(experts, dtype=torch.float32):
    torch.manual_seed(3)
    x = torch.randn(7, 32, dtype=dtype)
    indices = torch.rand(7, experts.num_experts).topk(2, dim=-1).indices
    return x, indices, torch.rand(7, 2).to(dtype)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def with_a_parametrised_weight(model, experts):
    parametrize.register_parametrization(experts, "down_proj", Doubled())


def with_another_activation(model, experts):
    experts.act_fn = nn.Tanh()


def with_a_hook_on_the_activation(model, experts):
    experts.act_fn.register_forward_hook(lambda module, inputs, y: y + 1)


def with_an_implementation_of_the_users(model, experts):
    ALL_EXPERTS_FUNCTIONS.register("zeros", lambda self, x, indices, weights: 0 * x)
    model.config._experts_implementation = "zeros"


def with_an_implementation_under_a_known_name(model, experts):
    ALL_EXPERTS_FUNCTIONS.register("grouped_mm", lambda self, x, indices, weights: 0 * x)
    model.config._experts_implementation = "grouped_mm"


def with_another_gate(model, experts):
    experts._apply_gate = lambda gate_up: gate_up.chunk(2, dim=-1)[0]


CHANGES = (
    with_a_parametrised_weight,
    with_another_activation,
    with_a_hook_on_the_activation,
    with_an_implementation_of_the_users,
    with_an_implementation_under_a_known_name,
    with_another_gate,
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_the_patch_counts(mixtral, change):
    model, _ = mixtral
    patched = copy.deepcopy(model)
    handle = patch(patched)
    for each in (model, patched):
        change(each, next(iter(experts_of(each).values())))
    plain, ours = (next(iter(experts_of(each).values())) for each in (model, patched))
    inputs = one_call(plain)
    assert torch.equal(ours(*inputs), plain(*inputs))
    handle.unpatch()


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_linear_function_of_torchs_counts(mixtral, when, monkeypatch):
    model, _ = mixtral
    model.set_experts_implementation("eager")
    experts = next(iter(experts_of(model).values()))
    linear, inputs = nn.functional.linear, one_call(experts)
    replace = ("linear", lambda x, weight, bias=None: linear(x, weight, bias) * 1.5)
    if when == "after":
        patch(model)
    monkeypatch.setattr(nn.functional, *replace)
    if when == "before":
        patch(model)
    found = experts(*inputs)
    assert torch.equal(found, type(experts).forward(experts, *inputs))


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_before_the_patch_counts(mixtral, change):
    model, _ = mixtral
    plain = next(iter(experts_of(model).values()))
    change(model, plain)
    inputs = one_call(plain)
    expected = plain(*inputs)
    patch(model)
    assert torch.equal(plain(*inputs), expected)


def test_keywords_and_a_dtype_that_was_not_proved(mixtral):
    model, _ = mixtral
    experts = next(iter(experts_of(model).values()))
    x, indices, weights = one_call(experts)
    expected = experts(x, indices, weights)
    handle = patch(model)
    found = experts(x, top_k_weights=weights, top_k_index=indices)
    torch.testing.assert_close(found, expected)
    assert not any(row.own_calls for row in rows_of(handle, model))
    torch.testing.assert_close(experts(x.double(), indices, weights).float(), expected)
    assert any(row.own_calls for row in rows_of(handle, model))


def no_tokens(experts, x, indices, weights):
    return x[:0], indices[:0], weights[:0]


def no_experts_of_a_token(experts, x, indices, weights):
    return x, indices[:, :0], weights[:, :0]


def weights_of_float64(experts, x, indices, weights):
    return x, indices, weights.double()


def an_expert_counted_from_the_last(experts, x, indices, weights):
    indices[2, 0] = -1
    return x, indices, weights


def a_down_projection_of_another_dtype(experts, x, indices, weights):
    experts.down_proj = nn.Parameter(experts.down_proj.detach().bfloat16())
    return x, indices, weights


def experts_without_width(experts, x, indices, weights):
    experts.gate_up_proj = nn.Parameter(experts.gate_up_proj.detach()[:, :0])
    experts.down_proj = nn.Parameter(experts.down_proj.detach()[:, :, :0])
    return x, indices, weights


CALLS = (
    no_tokens,
    no_experts_of_a_token,
    weights_of_float64,
    an_expert_counted_from_the_last,
    a_down_projection_of_another_dtype,
    experts_without_width,
)


@pytest.fixture
def one_thread():
    """With more of them torch adds rows of the same index in no order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_what_the_operator_does_not_take_is_the_modules_own(mixtral, call, implementation):
    model, _ = mixtral
    model.set_experts_implementation(implementation)
    patched = copy.deepcopy(model)
    handle = patch(patched)
    found, expected = outcome(patched, call), outcome(model, call)
    assert any(row.own_calls for row in rows_of(handle, patched))
    # Products of groups leave rows unwritten there, whose gradients hold what the memory held.
    if (call, implementation) != (an_expert_counted_from_the_last, "grouped_mm"):
        assert found == expected


def outcome(model, call):
    """What the call gives, as text: values and gradients, or the error."""
    (experts, *_) = experts_of(model).values()
    x, indices, weights = call(experts, *one_call(experts))
    leaves = [x.requires_grad_(), weights.requires_grad_(), *experts.parameters()]
    try:
        y = experts(x, indices, weights)
        if y.requires_grad:
            y.square().sum().backward()
    except Exception as error:
        return str(error)
    return str(
        [y.tolist(), *(leaf.grad if leaf.grad is None else leaf.grad.tolist() for leaf in leaves)]
    )


def test_bfloat16_is_as_exact_as_eager(mixtral):
    model, inputs = mixtral
    exact = step_of(model, inputs)[1]
    low = copy.deepcopy(model).bfloat16()
    eager = step_of(low, inputs)[1]
    handle = patch(low)
    assert all(row.patched for row in rows_of(handle, low))
    found = step_of(low, inputs)[1]
    for name, gradient in exact.items():
        if ".experts." in name:
            errors = [(g[name].float() - gradient).norm() for g in (found, eager)]
            assert errors[0] <= 1.5 * errors[1] + 1e-3 * gradient.norm(), name


OF_CAPABILITY = [(8, ()), (9, (torch.bfloat16, torch.float16)), (10, (torch.bfloat16,)), (12, ())]


@pytest.mark.parametrize("capability, known", OF_CAPABILITY)
def test_on_a_gpu_they_are_taken_where_their_products_have_matrix_units(
    mixtral, monkeypatch, capability, known
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    model, _ = mixtral
    (module, *_) = experts_of(model).values()
    gpu = torch.device("cuda", 3)
    x = SimpleNamespace(device=gpu)
    assert not is_multiplied_fast(module, x, torch.bfloat16)  # where nothing was proved
    assert has_grouped_product(gpu) == bool(known)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert is_multiplied_fast(module, x, dtype) == (dtype in known)
    assert is_multiplied_fast(module, SimpleNamespace(device=torch.device("cpu")), torch.float16)
    module.down_proj = nn.Parameter(module.down_proj[:, :, :-1].detach())
    assert not is_multiplied_fast(module, x, torch.bfloat16)
    _grouped.pop(3)


def test_it_compiles_without_breaks(mixtral):
    model, _ = mixtral
    patch(model)
    experts = next(iter(experts_of(model).values()))
    inputs = one_call(experts)
    compiled = torch.compile(experts, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), experts(*inputs))


def test_it_compiles_for_a_number_of_tokens_that_a_trace_does_not_know(mixtral):
    model, _ = mixtral
    patch(model)
    experts = next(iter(experts_of(model).values()))
    x, indices, weights = one_call(experts)

    def of_some(chosen):
        rows = chosen.nonzero().flatten()
        return experts(x[rows], indices[rows], weights[rows])

    chosen = torch.arange(7) % 3
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(of_some, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(chosen), of_some(chosen))


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_a_whole_model_compiles_without_breaks(model_type):
    model, inputs = tiny(model_type)
    expected = step_of(model, inputs)
    patch(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(**inputs).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same((loss.item(), found), expected)


def test_a_checkpointed_step_is_the_step(mixtral):
    model, inputs = mixtral
    expected = step_of(model, inputs)
    handle = patch(model)
    model.gradient_checkpointing_enable()
    assert_same(step_of(model, inputs), expected)
    assert not any(row.own_calls for row in rows_of(handle, model))


def test_a_bias_that_is_broadcast_is_the_modules_own():
    model, inputs = model_of("gpt_oss")
    handle = patch(model)
    for experts in experts_of(model).values():
        of_experts = experts.gate_up_proj_bias.detach()[:, :1].clone()
        experts.gate_up_proj_bias = nn.Parameter(of_experts)
    found = step_of(model, inputs)
    assert all(row.own_calls for row in rows_of(handle, model))
    handle.unpatch()
    assert_same(found, step_of(model, inputs))
