"""A sum goes into its norm past a branch that most calls pass by, and that is not run for it."""

import ast
import copy

import pytest
import torch
from family_models import step_of, tiny
from liger_jit.patch import patch
from liger_jit.patch.rules.add_norm_source import sum_at
from liger_jit.patch.rules.branch_between import passed_by, place_of_branch
from tiny_models import assert_same_step, build, counted, loss_and_gradients, shape_of
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

SEEN = []


class Branching(LlamaDecoderLayer):
    """With a branch that is seen if it runs."""

    def forward(self, hidden_states, states=None, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = residual + hidden_states
        if states is not None:
            SEEN.append(len(states))
            hidden_states = 2 * hidden_states
        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return residual + hidden_states


class OfALocal(Branching):
    def forward(self, hidden_states, states=None, **kwargs):
        residual = hidden_states
        states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states=states, **kwargs)
        hidden_states = residual + hidden_states
        if states is not None:
            SEEN.append(len(states))
        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return residual + hidden_states


class Shown(Branching):
    """What follows does more with the sum than add to it."""

    def forward(self, hidden_states, states=None, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = residual + hidden_states
        if states is not None:
            hidden_states = 2 * hidden_states
        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return torch.add(residual, hidden_states)


def branching(kind=Branching):
    model = build()
    for layer in model.model.layers:
        layer.__class__ = kind
    return model


def statuses(model):
    return {(row.role, row.status) for row in patch(model).report() if "layers.0" == row.path[6:]}


def test_the_branch_is_not_run_by_a_probe_and_the_sum_is_fused(monkeypatch):
    SEEN.clear()
    model = branching()
    own = loss_and_gradients(model)
    with patch(model) as handle, counted(monkeypatch) as calls:
        assert all(row.patched for row in handle.report()), str(handle.report())
        assert_same_step(loss_and_gradients(model), own)
    assert calls["fused_add_rms_norm"] == 2
    assert SEEN == []


def test_where_it_runs_the_layer_is_as_it_was(monkeypatch):
    SEEN.clear()
    model = branching()
    layer = model.model.layers[0]
    x = torch.randn(2, 5, 32, requires_grad=True)
    tables = model.model.rotary_emb(x, torch.arange(5)[None])

    def step(**given):
        y = layer(x, position_embeddings=tables, attention_mask=None, **given)
        return [y, *torch.autograd.grad(y.sin().sum(), (x, *layer.parameters()))]

    expected = [step(states=[1, 2, 3]), step()]
    patch(model)
    with counted(monkeypatch) as calls:
        found = step(states=[1, 2, 3])
        assert calls["fused_add_rms_norm"] == 0
        found = [found, step()]
        assert calls["fused_add_rms_norm"] == 1
    assert SEEN == [3, 3]
    for mine, own in zip(sum(found, []), sum(expected, []), strict=True):
        torch.testing.assert_close(mine, own, rtol=2e-5, atol=2e-5)


def test_a_branch_that_a_probe_would_run_is_read(monkeypatch):
    SEEN.clear()
    model = branching(OfALocal)
    own = loss_and_gradients(model)
    del SEEN[:]
    ((_, status),) = statuses(model)
    assert "no norm in its forward" in status
    assert SEEN == []
    assert_same_step(loss_and_gradients(model), own)


def test_what_follows_the_branch_counts():
    ((_, status),) = statuses(branching(Shown))
    assert "is more than a term after it: `torch.add(residual, hidden_states)`" in status


FORWARD = """
def forward(self, x, states=None, flag=1, *, more=None):
    x = x + self.a(x)
    if {test}:
        x = self.b(x)
    {orelse}
    return x + self.c(self.norm(x))
"""


@pytest.mark.parametrize(
    ("test", "taken"),
    [
        ("states is not None", True),
        ("more is not None", True),
        ("states is None", False),
        ("flag is not None", False),
        ("x is not None", False),
        ("states", False),
        ("states is not None and more is not None", False),
        ("other is not None", False),
    ],
)
def test_which_branches_are_taken_aside(test, taken):
    definition = ast.parse(FORWARD.format(test=test, orelse="")).body[0]
    assert (place_of_branch(definition, sum_at) is not None) == taken
    name, body = passed_by(definition, sum_at)
    assert name == (test.split()[0] if taken else None)
    assert len(body) == len(definition.body) - taken
    with_else = FORWARD.format(test=test, orelse="else:\n        x = self.d(x)")
    assert place_of_branch(ast.parse(with_else).body[0], sum_at) is None


@pytest.mark.parametrize("name", ["gpt2", "gpt_bigcode"])
def test_a_model_trains_as_before_and_is_taken_back(name, monkeypatch):
    model, given = tiny(name)
    before, own = shape_of(model), step_of(model, given)
    handle = patch(model)
    layers = model.config.num_hidden_layers
    assert handle.report().counts["fused_add_layer_norm"] == (layers, layers)
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["fused_add_layer_norm"] == layers
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]))
    handle.unpatch()
    assert shape_of(model) == before
    again = step_of(model, given)
    assert all(torch.equal(again[1][key], own[1][key]) for key in own[1])


def test_attention_to_other_states_is_called(monkeypatch):
    torch.manual_seed(3)
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=97, n_positions=32, add_cross_attention=True,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight)
    ids = torch.randint(3, 90, (2, 9))
    given = {"input_ids": ids, "labels": ids, "encoder_hidden_states": torch.randn(2, 4, 32)}
    twin = copy.deepcopy(model)
    own = step_of(twin, given)
    patch(model)
    with counted(monkeypatch) as calls:
        found = step_of(model, given)
    assert calls["fused_add_layer_norm"] == 0
    assert_same_step((torch.tensor(found[0]), found[1]), (torch.tensor(own[0]), own[1]))
    assert any("crossattention" in key for key in found[1])
