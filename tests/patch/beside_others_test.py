"""Models that another library has changed, or that are trained for something else than tokens: what
is not proved is refused with a sentence, and a step is the one without the patch."""

import copy
from types import MethodType, SimpleNamespace

import pytest
import torch
import transformers
from family_models import tiny
from liger_jit.patch import patch
from tiny_models import (
    SETTINGS,
    assert_same_step,
    batch,
    build,
    counted,
    error,
    loss_and_gradients,
    shape_of,
)
from torch import nn
from torch.nn import functional as F
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

LOSS = "fused_linear_cross_entropy"


def rows_of(model):
    return {row.path: row for row in patch(model).report()}


# Heads that give no tokens.


class WithValueHead(nn.Module):
    """As TRL's AutoModelForCausalLMWithValueHead."""

    def __init__(self, pretrained_model):
        super().__init__()
        self.pretrained_model = pretrained_model
        self.v_head = nn.Sequential(nn.Dropout(0.0), nn.Linear(32, 1))

    def forward(self, input_ids, **kwargs):
        kwargs["output_hidden_states"] = True
        output = self.pretrained_model(input_ids=input_ids, **kwargs)
        values = self.v_head(output.hidden_states[-1]).squeeze(-1)
        return output.logits.float(), output.loss, values


def ppo_step(model, **given):
    """Policy gradient of clipped ratios and the squared error of values."""
    model.zero_grad(set_to_none=True)
    ids = batch()["input_ids"]
    logits, _, values = model(ids, **given)
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    ratio = (chosen - chosen.detach() * 0.9).exp()
    loss = -torch.min(ratio, ratio.clamp(0.8, 1.2)).mean() + (values - 1).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("where", ["wrapper", "inside"])
def test_a_policy_with_a_value_head(where, monkeypatch):
    torch.manual_seed(2)
    model = WithValueHead(build())
    expected = ppo_step(model)
    before = shape_of(model)
    handle = patch(model if where == "wrapper" else model.pretrained_model)
    told = {row.role: row.status for row in handle.report()}
    assert told[LOSS] == ("patched" if where == "inside" else "the model has no output head")
    with counted(monkeypatch) as calls:
        assert_same_step(ppo_step(model), expected)
    assert calls["gated_mlp"] == 2 and not calls[LOSS]
    handle.unpatch()
    assert shape_of(model) == before


def test_a_value_head_beside_labels(monkeypatch):
    """A loss of tokens and one of values, of one forward: the wrapper reads the logits, too."""
    torch.manual_seed(2)
    model = WithValueHead(build())

    def step():
        model.zero_grad(set_to_none=True)
        logits, loss, values = model(**batch(), skip_logits=False)
        total = loss + values.square().mean() + logits.square().mean() * 1e-3
        total.backward()
        return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    patch(model.pretrained_model)
    found = step()
    plain = WithValueHead(build())
    plain.load_state_dict(model.state_dict())
    own_forward = plain.pretrained_model.forward
    plain.pretrained_model.forward = lambda skip_logits=None, **given: own_forward(**given)
    model = plain
    assert_same_step(found, step())


CLASSES = {
    "SequenceClassification": lambda: {"labels": torch.tensor([0, 2])},
    "TokenClassification": lambda: {"labels": torch.randint(0, 3, (2, 11))},
    "QuestionAnswering": lambda: {
        "start_positions": torch.tensor([1, 2]),
        "end_positions": torch.tensor([3, 5]),
    },
}


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_head_of_classes(family, task, monkeypatch):
    torch.manual_seed(4)
    config = getattr(transformers, f"{family}Config")(**SETTINGS, num_labels=3)
    config.classifier_dropout = 0.0
    model = getattr(transformers, f"{family}For{task}")(config).train()
    inputs = {"input_ids": batch()["input_ids"], **CLASSES[task]()}
    expected = loss_and_gradients(model, **inputs)
    handle = patch(model)
    told = {row.role: row.status for row in handle.report()}
    assert told[LOSS] == "the model has no output head"
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model, **inputs)
    # A bias that all places of a softmax share has a gradient of rounding errors.
    bias = "qa_outputs.bias"
    for _, gradients in (found, expected):
        assert gradients.pop(bias, torch.zeros(2)).abs().max() < 1e-6
    assert_same_step(found, expected)
    assert calls["gated_mlp"] == 2 and not calls[LOSS] and not calls["cross_entropy"]


@pytest.mark.parametrize("shape", [(), (2,)], ids=["regression", "of one label"])
def test_a_reward_model(shape, monkeypatch):
    """Pairs of chosen and rejected, as reward trainers compare them: -log sigmoid(r - r')."""
    torch.manual_seed(4)
    config = transformers.Qwen3Config(**SETTINGS, num_labels=1)
    model = transformers.Qwen3ForSequenceClassification(config).train()
    ids = batch(batch_size=4)["input_ids"] if shape else batch(batch_size=2)["input_ids"]

    def step():
        model.zero_grad(set_to_none=True)
        rewards = model(input_ids=ids).logits.squeeze(-1)
        chosen, rejected = rewards.chunk(2)
        loss = -F.logsigmoid(chosen - rejected).mean()
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = step()
    patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(), expected)
    assert calls["qk_norm_rope"] == calls["gated_mlp"] == 2


# Liger Kernel, by the names and places that its functions write to.


class LigerFunction(torch.autograd.Function):
    """A kernel that nobody can read, in place of Triton's."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight = (one.detach().requires_grad_() for one in ctx.saved_tensors)
        with torch.enable_grad():
            y = F.rms_norm(x, weight.shape, weight, ctx.eps)
        return *torch.autograd.grad(y, (x, weight), dy), None


class LigerRMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon, self.offset, self.casting_mode = eps, 0.0, "llama"
        self.in_place, self.row_mode = True, None

    def forward(self, hidden_states):
        return LigerFunction.apply(hidden_states, self.weight, self.variance_epsilon)

    def extra_repr(self):
        return f"eps={self.variance_epsilon}, offset={self.offset}, in_place={self.in_place}"


class LigerSiLUMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return F.silu(a) * b

    @staticmethod
    def backward(ctx, dc):
        a, b = (one.detach().requires_grad_() for one in ctx.saved_tensors)
        with torch.enable_grad():
            c = F.silu(a) * b
        return torch.autograd.grad(c, (a, b), dc)


class LigerSwiGLUMLP(modeling_llama.LlamaMLP):
    def forward(self, x):
        hidden = LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x))
        return self.down_proj(hidden)


def liger_rotary_pos_emb(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    return ROTARY(q, k, cos, sin, unsqueeze_dim)


ROTARY = modeling_llama.apply_rotary_pos_emb


def llama_lce_forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
    """It reads the head's weight and never calls the head."""
    kwargs.pop("skip_logits", None)
    states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    logits = F.linear(states, self.lm_head.weight)
    loss = None
    if labels is not None:
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        logits = None if self.training else logits
    return transformers.modeling_outputs.CausalLMOutputWithPast(loss=loss, logits=logits)


def bind(module, name, method):
    module.__dict__[name] = method.__get__(module, module.__class__)


def by_instances(model):
    model.forward = MethodType(llama_lce_forward, model)
    base = model.model
    norms = [base.norm]
    for layer in base.layers:
        bind(layer.mlp, "forward", LigerSwiGLUMLP.forward)
        bind(layer.mlp, "_get_name", lambda self: "LigerSwiGLUMLP")
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    for norm in norms:
        norm.offset, norm.casting_mode, norm.in_place = 0.0, "llama", True
        bind(norm, "forward", LigerRMSNorm.forward)
        bind(norm, "extra_repr", LigerRMSNorm.extra_repr)
        bind(norm, "_get_name", lambda self: "LigerRMSNorm")


def test_a_model_that_liger_patched_keeps_its_forwards(monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", liger_rotary_pos_emb)
    model = build()
    by_instances(model)
    expected = loss_and_gradients(model)
    before = shape_of(model)
    handle = patch(model)
    rows = {row.path: row for row in handle.report()}
    for path in ("model.norm", "model.layers.0.mlp", "model.layers.1.input_layernorm"):
        assert "already replaced on the instance" in rows[path].status
    assert "takes (q, k, cos, sin, position_ids" in rows["model.layers.0.self_attn"].status
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert not calls
    handle.unpatch()
    assert shape_of(model) == before


def test_a_model_of_classes_that_liger_put_in(monkeypatch):
    for name, value in {
        "LlamaRMSNorm": LigerRMSNorm,
        "LlamaMLP": LigerSwiGLUMLP,
        "apply_rotary_pos_emb": liger_rotary_pos_emb,
    }.items():
        monkeypatch.setattr(modeling_llama, name, value)
    monkeypatch.setattr(modeling_llama.LlamaForCausalLM, "forward", llama_lce_forward)
    model = build()
    expected = loss_and_gradients(model)
    rows = rows_of(model)
    assert rows["model.norm"].status == "LigerRMSNorm.forward uses .apply"
    assert rows["model.layers.0.mlp"].status == "LigerSwiGLUMLP.forward uses .apply"
    assert "takes (q, k, cos, sin, position_ids" in rows["model.layers.0.self_attn"].status
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert not calls


def test_cross_entropy_that_liger_put_in_is_called(monkeypatch):
    called = []

    def liger_cross_entropy(*args, **kwargs):
        called.append(1)
        return CROSS_ENTROPY(*args, **kwargs)

    model = build()
    expected = loss_and_gradients(model)
    monkeypatch.setattr(nn.functional, "cross_entropy", liger_cross_entropy)
    rows = {row.role: row.status for row in patch(model).report()}
    assert "not torch's own" in rows[LOSS]
    assert_same_step(loss_and_gradients(model), expected)
    assert called


CROSS_ENTROPY = F.cross_entropy


# Unsloth: forwards of classes are replaced by ones that call kernels, and those of MLPs with
# adapters on the instances; projections of attention go through functions put on the module.


def fast_rms_layernorm(layernorm, x, gemma=False):
    eps = getattr(layernorm, "variance_epsilon", None)
    return LigerFunction.apply(x, layernorm.weight, eps)


def fast_norm_forward(self, hidden_states):
    return fast_rms_layernorm(self, hidden_states)


def apply_lora_mlp_swiglu(self, X, inplace=True):
    return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(X), self.up_proj(X)))


def apply_lora_qkv(self, x):
    return self.q_proj(x), self.k_proj(x), self.v_proj(x)


def fast_attention_forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q, k, v = (one.view(shape).transpose(1, 2) for one in self.apply_qkv(self, hidden_states))
    q, k = fast_rope_embedding(q, k, *position_embeddings)
    k, v = (one.repeat_interleave(self.num_key_value_groups, 1) for one in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.o_proj(y.transpose(1, 2).flatten(2)), None


def fast_rope_embedding(q, k, cos, sin):
    return ROTARY(q, k, cos, sin)


def test_a_model_that_unsloth_patched(monkeypatch):
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", fast_norm_forward)
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", fast_attention_forward)
    model = build()
    for layer in model.model.layers:
        layer.self_attn.apply_qkv = apply_lora_qkv
        layer.mlp.forward = MethodType(apply_lora_mlp_swiglu, layer.mlp)
    expected = loss_and_gradients(model)
    before = shape_of(model)
    handle = patch(model)
    rows = {row.path: row for row in handle.report()}
    assert rows["model.norm"].status == "fast_norm_forward hands on its module"
    assert "already replaced on the instance" in rows["model.layers.0.mlp"].status
    assert "model.layers.0.self_attn" not in rows  # it calls no rotary function by that name
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert set(calls) <= {LOSS}
    handle.unpatch()
    assert shape_of(model) == before


# Kernels of the Hub.


def test_hub_kernels_that_come_after_the_patch_are_called(monkeypatch):
    """`kernelize` puts a forward of its own on the instance, over ours."""
    model = build()
    patch(model)
    norm, called = model.model.norm, []

    def kernel(self, hidden_states):
        called.append(1)
        return LlamaNorm.forward(self, hidden_states)

    norm.forward = MethodType(kernel, norm)
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert called and calls["rms_norm"] + calls["fused_add_rms_norm"] == 4


LlamaNorm = modeling_llama.LlamaRMSNorm


@pytest.mark.parametrize("fused", [True, False])
def test_a_model_with_hub_kernels_trains_as_before(fused):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    model._use_kernels = True
    rows = patch(model, fused_linear_cross_entropy=fused).report()
    assert {row.status for row in rows if row.role != LOSS} == {"hub kernels own it"}
    assert_same_step(loss_and_gradients(model), expected)


# Packed weights: the shapes of a linear layer, and no weight.


class Packed(nn.Module):
    """What is packed has no `weight`. `names` are those of the features."""

    names = ("in_features", "out_features")

    def __init__(self, linear):
        super().__init__()
        sizes = linear.in_features, linear.out_features
        for name, size in zip(self.names, sizes, strict=True):
            setattr(self, name, size)
        scale = linear.weight.detach().abs().amax(0, keepdim=True) / 7
        packed = (linear.weight.detach() / scale).round().clamp(-8, 7).to(torch.int8)
        self.register_buffer("qweight", packed.T.contiguous())
        self.register_buffer("qzeros", torch.zeros(1, sizes[1], dtype=torch.int8))
        self.register_buffer("scales", scale.T.contiguous())
        self.register_buffer("bias", None)

    def forward(self, x):
        weight = (self.qweight - self.qzeros).to(x.dtype) * self.scales
        return F.linear(x, weight.T)


class GptqLinear(Packed):
    """As GPTQ's, which sorts its columns by groups."""

    names = ("infeatures", "outfeatures")

    def __init__(self, linear):
        super().__init__(linear)
        self.register_buffer("g_idx", torch.zeros(self.infeatures, dtype=torch.int32))


class WQLinear_GEMM(Packed):
    """As AWQ's."""


def pack(model, kind, names):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in names:
                setattr(parent, name, kind(child))


PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("kind", [GptqLinear, WQLinear_GEMM])
@pytest.mark.parametrize("head", [False, True])
def test_packed_weights(kind, head, monkeypatch):
    model = build("Qwen3")
    pack(model, kind, PROJECTIONS | ({"lm_head"} if head else set()))
    expected = loss_and_gradients(model)
    handle = patch(model)
    told = {row.role: row.status for row in handle.report()}
    assert told[LOSS] == (
        f"the head is {kind.__name__}, not a plain nn.Linear" if head else "patched"
    )
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["gated_mlp"] == 0 and calls[LOSS] == (0 if head else 1)
    assert calls["swiglu"] == (2 if kind is WQLinear_GEMM else 0)
    assert calls["fused_add_rms_norm"] + calls["rms_norm"] > 0


# Weights that were made in inference mode, which no backward can keep.


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma"])
def test_a_model_that_was_made_in_inference_mode(family, around):
    with torch.inference_mode():
        model = build(family).eval()
    ids = batch()["input_ids"]
    with around():
        expected = model(ids).logits
        with_loss = model(**batch()).loss
    handle = patch(model)
    with around():
        found = model(ids)
        assert error(found.logits, expected) <= 1e-5
        assert error(model(**batch()).loss, with_loss) <= 1e-5
    handle.unpatch()
    with around():
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_step_of_such_a_model_raises_what_torch_raises(training):
    with torch.inference_mode():
        model = build().train(training)
    before = shape_of(model)

    def raised():
        try:
            model(**batch()).loss.backward()
        except RuntimeError as error:
            return SimpleNamespace(text=str(error))
        return None

    expected = raised()
    handle = patch(model)
    found = raised()
    assert (found is None) == (expected is None)
    if expected is not None:
        assert "nference" in expected.text and "nference" in found.text
    handle.unpatch()
    assert shape_of(model) == before


@pytest.mark.parametrize("patched_in", [torch.inference_mode, torch.no_grad])
def test_a_model_may_be_patched_in_inference_mode_and_trained_after(patched_in, monkeypatch):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    with patched_in():
        handle = patch(model)
    assert {row.status for row in handle.report()} == {"patched"}
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls[LOSS] == 1
    assert modeling_qwen3.Qwen3RMSNorm.forward is type(model.model.norm).forward


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_model_that_accelerate_compiles_region_by_region_is_the_model(model_type):
    """It is another one, with the `__dict__` of this one and children that are compiled."""
    from accelerate.utils import compile_regions

    model, inputs = tiny(model_type)
    patched = copy.deepcopy(model)
    patch(patched)
    steps = []
    for one in (model, patched):
        torch._dynamo.reset()
        output = compile_regions(one, backend="eager")(**inputs)
        output.loss.backward()
        steps.append((output, [p.grad for p in one.parameters() if p.grad is not None]))
    (expected, wanted), (found, gradients) = steps
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for gradient, exact in zip(gradients, wanted, strict=True):
        assert error(gradient, exact) < 1e-4
