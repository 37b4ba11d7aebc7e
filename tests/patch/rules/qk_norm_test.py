"""Norms of the heads of q and k that go into the rotation: which do, and what keeps them apart."""

import ast
import copy
import inspect
from collections import Counter

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from liger_jit.patch.answers import Answers
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.qk_norm_rope import QK_NORM
from liger_jit.patch.rules.qk_norm_source import rewrite
from liger_jit.patch.source.definition import definition_of
from tiny_models import (
    assert_same_step,
    batch,
    build,
    counted,
    error,
    in_float32,
    loss_and_gradients,
)
from torch import nn
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, apply_rotary_pos_emb

BOTH = {"qk_norm_rope": 2}
APART = {"rms_norm": 4, "rope": 2}


def attention_rows(handle):
    return [row for row in handle.report() if row.path.endswith("self_attn")]


def roles(handle):
    return {(row.role, row.status) for row in attention_rows(handle)}


def norms_and_rotations(model, monkeypatch, **inputs):
    """(step, calls of these operators by attention)."""
    with counted(monkeypatch) as calls:
        step = loss_and_gradients(model, **inputs)
    # Two layers: a norm before each, and one at the end. A sum goes into the others.
    calls["rms_norm"] -= 3
    return step, {name: calls[name] for name in ("qk_norm_rope", *APART) if calls[name]}


# Qwen3 norms before it transposes, Gemma3 after, rounding once, with an offset.
@pytest.mark.parametrize("family", ["Qwen3", "Qwen3Moe", "Gemma3"])
def test_norms_go_into_the_rotation(family, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model)
    assert roles(patch(model)) == {("qk_norm_rope", "patched")}
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["qk_norm_rope"] == 2
    assert not calls["rope"]


# Hunyuan norms after; BitNet norms something else; Llama has no such norms. q and k of two layers.
@pytest.mark.parametrize(
    ("family", "reason", "norms"),
    [
        ("HunYuanDenseV1", "query_states is rotated before it is normed", 4),
        ("BitNet", "query_states is not what a norm gives when it is rotated", 4),
        ("Llama", None, 0),
    ],
)
def test_other_attention_keeps_its_rotation_and_says_why(family, reason, norms, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model)
    told = dict(roles(patch(model)))
    assert told.pop("rope") == "patched"
    assert reason is None or reason in told.pop("qk_norm_rope")
    assert not told
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert not calls["qk_norm_rope"]
    assert calls["rope"] == 2
    assert calls["rms_norm"] == norms + 3  # of the layers and at the end


def test_bfloat16_gives_the_bits_of_norms_and_rotation_apart(monkeypatch):
    model = build("Qwen3", torch.bfloat16)
    exact = loss_and_gradients(in_float32(model))
    patch(model)
    together, calls = norms_and_rotations(model, monkeypatch)
    assert calls == BOTH
    hook_nothing(model)
    apart, calls = norms_and_rotations(model, monkeypatch)
    assert calls == APART
    assert torch.equal(together[0], apart[0])
    for name, gradient in apart[1].items():
        assert torch.equal(together[1][name], gradient), name
    assert error(together[0], exact[0]) < 1e-2


def hook_nothing(model):
    for layer in model.model.layers:
        layer.self_attn.q_norm.register_forward_hook(lambda module, args, output: None)


@pytest.mark.parametrize("flags", [{"rope": False}, {"rms_norm": False}])
def test_flags_leave_the_other_half(flags, monkeypatch):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    handle = patch(model, **flags)
    wanted = ("rotary", "turned off (rope=False)") if "rope" in flags else ("rope", "patched")
    assert roles(handle) == {wanted}
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert not calls["qk_norm_rope"]
    assert bool(calls["rope"]) == ("rope" not in flags)


def test_the_kernel_is_the_operators_own(monkeypatch):
    """With an operator that is wrong the result is wrong: nothing else norms or rotates."""
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    patch(model)
    right = functional.qk_norm_rope
    monkeypatch.setattr(functional, "qk_norm_rope", lambda q, *rest: right(-q, *rest))
    with pytest.raises(AssertionError):
        assert_same_step(loss_and_gradients(model), expected)


def test_an_operator_that_is_wrong_is_not_used(monkeypatch):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    right = functional.qk_norm_rope
    with monkeypatch.context() as wrong:
        wrong.setattr(functional, "qk_norm_rope", lambda q, *rest: right(-q, *rest))
        told = dict(roles(patch(model)))
        assert told.pop("rope") == "patched"
        assert "output differs" in told.pop("qk_norm_rope")
    assert_same_step(loss_and_gradients(model), expected)


def with_a_hook(norm):
    norm.register_forward_hook(lambda module, args, output: output * 1.5)


def with_a_hook_before(norm):
    norm.register_forward_pre_hook(lambda module, args: (args[0] + 0.5,))


def with_a_forward_of_its_own(norm):
    own = norm.forward
    norm.forward = lambda x: own(x) * 1.5


@pytest.mark.parametrize("change", [with_a_hook, with_a_hook_before, with_a_forward_of_its_own])
@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
def test_a_norm_that_is_more_than_ours_is_called_as_a_module(change, name, monkeypatch):
    model, reference = build("Qwen3"), build("Qwen3")
    patch(model)
    for one in (model, reference):
        change(getattr(one.model.layers[1].self_attn, name))
    expected = loss_and_gradients(reference)
    found, calls = norms_and_rotations(model, monkeypatch)
    assert calls == {"qk_norm_rope": 1, "rms_norm": 2, "rope": 1}
    assert_same_step(found, expected)


def test_a_hook_sees_what_it_saw(monkeypatch):
    seen = []

    def watch(model):
        norm = model.model.layers[0].self_attn.q_norm
        norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
        loss_and_gradients(model)
        return seen.pop()

    model = build("Qwen3")
    expected = watch(copy.deepcopy(model))
    patch(model)
    for found, wanted in zip(watch(model), expected, strict=True):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted)


def test_hooks_that_are_there_already_do_not_see_the_probe(monkeypatch):
    model, seen = build("Qwen3"), []
    norm = model.model.layers[0].self_attn.q_norm
    hook = norm.register_forward_hook(lambda module, args, output: seen.append(output))
    expected = loss_and_gradients(model)
    seen.clear()
    assert roles(patch(model)) == {("qk_norm_rope", "patched")}
    assert not seen
    found, calls = norms_and_rotations(model, monkeypatch)
    assert calls == {"qk_norm_rope": 1, "rms_norm": 2, "rope": 1}
    assert len(seen) == 1
    assert_same_step(found, expected)
    hook.remove()
    assert norms_and_rotations(model, monkeypatch)[1] == BOTH


def test_norms_that_differ_are_not_taken_together(monkeypatch):
    model = build("Qwen3")
    for layer in model.model.layers:
        layer.self_attn.k_norm.variance_epsilon = 1e-3
    expected = loss_and_gradients(model)
    patch(model)
    found, calls = norms_and_rotations(model, monkeypatch)
    assert calls == APART
    assert_same_step(found, expected)


def test_dtypes_that_a_norm_promotes_are_left_to_it(monkeypatch):
    model = build("Qwen3")
    exact = loss_and_gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        eager = loss_and_gradients(model)
        patch(model)
        with counted(monkeypatch) as calls:
            found = loss_and_gradients(model)
    assert (calls["qk_norm_rope"], calls["rope"]) == (0, 2)
    assert found[0].dtype == eager[0].dtype
    for name, gradient in exact[1].items():
        assert error(found[1][name], gradient) <= 2 * error(eager[1][name], gradient), name


@pytest.mark.parametrize("family", ["Qwen3", "Gemma3"])
def test_dtypes_that_were_not_proved_are_left_to_the_norms(family):
    model = build(family).double()
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.float()
    expected = loss_and_gradients(model)
    patch(model)
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_take_the_same_way(use_reentrant, monkeypatch):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    patch(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert (calls["qk_norm_rope"], calls["rope"]) == (4, 0)


def test_a_compiled_attention_has_no_break(monkeypatch):
    model = build("Qwen3")
    patch(model)
    attention = model.model.layers[0].self_attn
    x = torch.randn(2, 11, 32)
    tables = model.model.rotary_emb(x, torch.arange(11).unsqueeze(0))
    torch._dynamo.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    with counted(monkeypatch) as calls:
        found = compiled(x, position_embeddings=tables, attention_mask=None)[0]
    assert calls["qk_norm_rope"] == 1
    assert not calls["rope"]
    wanted = attention(x, position_embeddings=tables, attention_mask=None)[0]
    torch.testing.assert_close(found, wanted)


def test_generation_with_a_cache_gives_the_same_tokens(monkeypatch):
    model = build("Qwen3").eval()
    ids = batch()["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": True}
    expected = model.generate(ids, **options)
    patch(model)
    with counted(monkeypatch) as calls:
        assert torch.equal(model.generate(ids, **options), expected)
    assert calls["qk_norm_rope"] == 12


def test_unpatch_leaves_the_class_and_the_module_as_they_were():
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    own, names = Qwen3Attention.forward, set(vars(modeling_qwen3))
    handle = patch(model)
    ours = model.model.layers[0].self_attn.forward
    assert inspect.signature(ours.__func__) == inspect.signature(own)
    handle.unpatch()
    assert "forward" not in model.model.layers[0].self_attn.__dict__
    assert Qwen3Attention.forward is own
    assert set(vars(modeling_qwen3)) == names
    assert_same_step(loss_and_gradients(model), expected, 0.0)


class GatedAttention(Qwen3Attention):
    """Uses q between its norm and the rotation."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        gate = q.sigmoid()
        cos, sin = position_embeddings
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        mixed = (q * gate).flatten(2).mean(1) + k.flatten(2).mean(1)[..., :1]
        return self.o_proj(mixed.new_zeros(*shape[:-2], 32)) + mixed.mean(), None


class PaddedAttention(Qwen3Attention):
    """Writes, if it is told to, into what a norm was given, before the rotation."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, padding=None, **_):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        raw = self.q_proj(hidden_states)
        q = self.q_norm(raw.view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        if padding is not None:
            raw *= padding
        cos, sin = position_embeddings
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        values = torch.cat((q, k), dim=1).transpose(1, 2).flatten(2)
        return values[..., :32] + values[..., -32:], None


class SwappedAttention(Qwen3Attention):
    """Other names, other statements between, and the key's norm first."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        b = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        a = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        a = self.q_norm(a)
        left, right = position_embeddings
        if attention_mask is not None and not self.training:
            left = left + 0.0
        a, b = apply_rotary_pos_emb(a, b, left, right)
        values = torch.cat((a, b), dim=1).transpose(1, 2).flatten(2)
        return torch.sin(values[..., :32]) + torch.cos(values[..., -32:]), None


@pytest.mark.parametrize(
    "attention, told",
    [
        (
            GatedAttention,
            {"rope": "patched", "qk_norm_rope": "q is not what a norm gives when it is rotated"},
        ),
        (
            PaddedAttention,
            {
                "rope": "patched",
                "qk_norm_rope": "`raw *= padding` may write to what a norm is given, before the "
                "rotation",
            },
        ),
        (SwappedAttention, {"qk_norm_rope": "patched"}),
    ],
)
def test_what_else_a_forward_does_decides(attention, told, monkeypatch):
    model = build("Qwen3")
    for layer in model.model.layers:
        layer.self_attn.__class__ = attention
    expected = loss_and_gradients(model)
    assert dict(roles(patch(model))) == told
    assert_same_step(loss_and_gradients(model), expected)


STATEMENTS = """
def forward(self, x, tables, **kwargs):
    q = self.q_norm(self.q(x)).transpose(1, 2)
    k = self.k_norm(self.k(x)).transpose(1, 2)
    cos, sin = tables
    q, k = rotate(q, k, cos, sin)
    return q @ k
"""


def rewritten(text):
    try:
        return rewrite(ast.parse(text).body[0], "rotate")
    except Mismatch:
        return None


def test_the_statements_are_found_where_they_are_and_nowhere_else():
    found = rewritten(STATEMENTS)
    assert found.norms == ("q_norm", "k_norm")
    assert found.pair == ("q", "k")
    assert ast.unparse(found.own) == ast.unparse(ast.parse(STATEMENTS).body[0])
    for old, new in (
        (".transpose(1, 2)", ".transpose(1, 3)"),
        (".transpose(1, 2)", ".transpose(1, 2).contiguous()"),
        ("self.q_norm(self.q(x))", "self.q_norm(self.q(x), 1)"),
        ("self.q_norm(self.q(x))", "self.q_norm(self.q(x), scale=1)"),
        ("self.q_norm(self.q(x))", "other.q_norm(self.q(x))"),
        ("cos, sin = tables", "cos, sin = tables(q)"),
        ("cos, sin = tables", "cos, sin = tables\n    k = k * 2"),
        ("cos, sin = tables", "cos, sin = tables\n    if x is None: return q"),
        ("q, k = rotate(q, k,", "q, k = rotate(k, q,"),
        ("q, k = rotate(q, k,", "k, q = rotate(q, k,"),
        ("cos, sin)", "cos, sin, 2)"),
        ("cos, sin)", "cos, sin=sin)"),
        ("q, k = rotate(q, k, cos, sin)", "with tables: q, k = rotate(q, k, cos, sin)"),
        (
            "q, k = rotate(q, k, cos, sin)",
            "if x:\n        pass\n    else: q, k = rotate(q, k, cos, sin)",
        ),
        ("q, k = rotate(q, k, cos, sin)", "q, k = rotate(q, k, cos, sin)\n    " * 2),
    ):
        assert old in STATEMENTS
        assert rewritten(STATEMENTS.replace(old, new)) is None, new


def test_the_definition_is_that_of_the_innermost_function_and_of_no_lambda():
    def outer(value):
        return lambda self, x: x + value

    assert definition_of(outer(1)) is None
    assert definition_of(nn.Module.__call__) is not None
    assert definition_of(len) is None
    own = definition_of(Qwen3Attention.forward)
    assert own.name == "forward"
    decorated = definition_of(torch.no_grad()(Qwen3Attention.forward))
    assert ast.dump(decorated) == ast.dump(own)


def test_warm_up_learns_the_kernel():
    calls = Counter((call.op, call.spare) for call in patch(build("Qwen3"))._calls)
    assert calls["qk_norm_rope", False] == 1
    # The rotation alone stands in where the norms cannot wait for it.
    assert calls["rope", True] == 1 and not calls["rope", False]


def test_the_proof_calls_no_operator(monkeypatch):
    attention = build("Qwen3").model.layers[0].self_attn
    with counted(monkeypatch) as calls:
        proof = Answers().proved(QK_NORM, attention)
    assert proof.role == "qk_norm_rope"
    assert not calls
    assert proof.otherwise.role == "rope"


@pytest.mark.parametrize("family", ["Qwen3", "Olmo2"])
def test_calls_of_the_rotary_function_itself_are_told(family):
    model = build(family)
    handle = patch(model)
    loss_and_gradients(model)
    assert not any(row.own_calls for row in handle.report())
    trained = torch.zeros(1, requires_grad=True)  # no operator has a gradient for angles

    def with_gradient(module, inputs, tables):
        return tuple(table + trained for table in tables)

    model.model.rotary_emb.register_forward_hook(with_gradient)
    loss_and_gradients(model)
    for row in attention_rows(handle):
        assert row.own_calls == 1 and "apply_rotary_pos_emb was called" in row.why


def test_norms_that_waited_and_ran_their_own_forward_are_told():
    model = build("Qwen3")
    handle = patch(model)
    for layer in model.model.layers:
        # Heads of a dtype that the norms, which give their weight's, were not tried with.
        layer.self_attn.q_proj.double()
        layer.self_attn.q_proj.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    with pytest.raises(RuntimeError):  # attention to keys of another dtype
        loss_and_gradients(model)
    told = {row.path: row.own_calls for row in handle.report() if row.path.endswith("_norm")}
    assert told["model.layers.0.self_attn.q_norm"] == 1
    assert told["model.layers.0.self_attn.k_norm"] == 0


# Of heads that are normed before and after they are transposed: (heads, 1) in the norm's layout.
@pytest.mark.parametrize(("family", "ones"), [("Qwen3", ()), ("Gemma3", (1,))])
@pytest.mark.parametrize("tokens", [4, 11], ids=["as many as heads", "more"])
def test_a_weight_for_each_head_is_applied_where_the_norm_stands(family, ones, tokens):
    model = build(family)
    handle = patch(model)
    inputs = batch(ignored=False, tokens=tokens)
    for layer in model.model.layers:
        norm = layer.self_attn.q_norm
        heads = model.config.num_attention_heads
        assert heads == 4
        norm.weight = nn.Parameter(torch.rand(heads, *ones, norm.weight.numel()) + 0.5)
    found = loss_and_gradients(model, **inputs)
    handle.unpatch()
    assert_same_step(found, loss_and_gradients(model, **inputs))


def test_tables_of_one_angle_are_broadcast_by_the_function_itself():
    model = build("Qwen3")
    handle = patch(model)
    narrow = lambda module, inputs, tables: tuple(table[..., :1] for table in tables)  # noqa: E731
    model.model.rotary_emb.register_forward_hook(narrow)
    found = loss_and_gradients(model)
    assert all(row.own_calls == 1 for row in attention_rows(handle))
    handle.unpatch()
    assert_same_step(found, loss_and_gradients(model))
