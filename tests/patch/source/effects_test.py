"""A probe leaves nothing behind: what runs in one was read first."""

from collections import Counter, deque
from types import FunctionType

import pytest
import torch
from liger_jit.patch import patch
from torch import nn
from transformers import LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

SEEN = []
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


class Tracker:
    def __init__(self):
        self.log = []

    def add(self, value):
        self.log.append(value)
        return self


class OfClass:
    log = Tracker()


def note(x):
    SEEN.append(x.shape)
    return x


class Layer(LlamaDecoderLayer):
    """A layer that fuses a sum, for a subclass to do something with its input first."""

    def __init__(self):
        super().__init__(LlamaConfig(**SMALL), 0)
        self.history, self.count, self.tracker = deque(), Counter(), Tracker()
        self.nested, self.table = [[]], {"calls": [0]}
        self.settings = type("Settings", (), {})()
        self.settings.scale = 1.0
        self.limit, self.is_logging = 2, False
        self.scale = nn.Parameter(torch.ones(1))

    def watch(self, x):
        return x

    def forward(self, hidden_states, **kwargs):
        residual = hidden_states
        hidden_states = self.watch(self.input_layernorm(hidden_states))
        hidden_states, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        return residual + self.mlp(hidden_states)

    def state(self):
        parts = self.history, self.count, self.nested, self.table, self.tracker.log, SEEN
        return str((parts, OfClass.log.log, vars(self.settings), self.scale, vars(type(self))))


class Appending(Layer):
    def watch(self, x):
        self.history.append(x)
        return x


class Counting(Layer):
    def watch(self, x):
        self.count["calls"] += 1
        return x


class Nesting(Layer):
    def watch(self, x):
        inner = self.nested[0]
        inner += [1]
        return x


class Noting(Layer):
    def watch(self, x):
        return note(x)


class Global(Layer):
    def watch(self, x):
        SEEN.append(1)
        return x


class Rebinding(Layer):
    def watch(self, x):
        global SEEN
        SEEN = [*SEEN, 1]
        return x


class Tracking(Layer):
    def watch(self, x):
        self.tracker.add(1)
        return x


class TrackingByClass(Layer):
    def watch(self, x):
        OfClass.log.add(1)
        return x


class TrackingByName(Layer):
    def watch(self, x):
        tracker = self.tracker
        tracker.add(1)
        return x


class Setting(Layer):
    def watch(self, x):
        self.settings.scale = 2.0
        return x


class SettingByName(Layer):
    def watch(self, x):
        setattr(self.settings, "scale", 2.0)  # noqa: B010
        return x


class OfItsClass(Layer):
    calls = 0

    def watch(self, x):
        type(self).calls = 1
        return x


class InPlace(Layer):
    def watch(self, x):
        self.scale.data.mul_(2)
        return x


class Augmenting(Layer):
    def watch(self, x):
        scale = self.scale.data
        scale *= 2
        return x


class AugmentingAView(Layer):
    def watch(self, x):
        scale = self.scale.detach().view(-1)
        scale *= 2
        return x


class AugmentingAPart(Layer):
    def watch(self, x):
        (scale, one) = (self.scale.detach(), 1)
        scale *= 2
        return x * one


def doubled(x):
    x *= 2
    return x


class AugmentingElsewhere(Layer):
    def watch(self, x):
        return x * doubled(self.scale.detach())


class Into(Layer):
    def watch(self, x):
        return torch.mul(x, 1.0, out=self.scale.data)


class ByDefault(Layer):
    def watch(self, x, seen=SEEN):
        seen += [1]
        return x


class Lambda(Layer):
    def watch(self, x):
        return (lambda: SEEN.append(1) or x)()


class Seeding(Layer):
    def watch(self, x):
        torch.set_default_dtype(torch.float64)
        return x


class Property(Layer):
    @property
    def noted(self):
        SEEN.append(1)
        return 1.0

    def watch(self, x):
        return x * self.noted


WRITING = {
    Appending: "self.history",
    Counting: "self.count",
    Nesting: "self.nested",
    Noting: "SEEN",
    Global: "SEEN",
    Rebinding: "global SEEN",
    Tracking: "self.tracker",
    TrackingByClass: "it uses OfClass",
    TrackingByName: "self.tracker",
    Setting: "it writes self.settings.scale",
    SettingByName: "self.settings",
    OfItsClass: "it writes type(self).calls",
    InPlace: "mul_",
    Augmenting: "scale *= 2",
    AugmentingAView: "scale *= 2",
    AugmentingAPart: "scale *= 2",
    AugmentingElsewhere: "x *= 2",
    Into: "out=",
    ByDefault: "a default that it may write to",
    Lambda: "lambda",
    Seeding: "torch.set_default_dtype",
    Property: "self.noted",
}


def status_of(module):
    return {row.path: row.status for row in patch(nn.Sequential(module)).report()}["0"]


@pytest.mark.parametrize("kind", WRITING, ids=lambda kind: kind.__name__)
def test_a_layer_that_may_leave_something_behind_is_not_run(kind):
    layer = kind()
    before = layer.state()
    assert WRITING[kind] in status_of(layer)
    assert layer.state() == before


class Reading(Layer):
    """What runs in a probe and leaves nothing."""

    def watch(self, x, more=None):
        if self.is_logging and self.limit > 1:
            self.history.append(x)
        y = x * self.settings.scale
        y *= self.scale
        if isinstance(y, torch.Tensor) and more is None:
            return torch.cat((y, y.detach()), dim=0).chunk(2)[0]
        return y


def test_a_layer_that_leaves_nothing_behind_is_fused():
    layer = Reading()
    before = layer.state()
    assert status_of(layer) == "patched"
    assert layer.state() == before


def counted(forward):
    from functools import wraps

    @wraps(forward)
    def wrapped(self, *args, **kwargs):
        SEEN.append(1)
        return forward(self, *args, **kwargs)

    return wrapped


class Decorated(Layer):
    # As a file of transformers has it.
    forward = FunctionType(counted.__code__, {"__name__": "transformers.x", "SEEN": SEEN})(
        Layer.forward
    )


def test_a_decorator_is_not_run():
    SEEN.clear()
    assert status_of(Decorated()) == "patched"
    assert not SEEN


class Remembering(LlamaRMSNorm):
    def forward(self, x):
        SEEN.append(x.shape)
        return super().forward(x)


def test_a_norm_that_was_refused_is_not_run_in_a_layer():
    SEEN.clear()
    layer = Layer()
    layer.input_layernorm = Remembering(32)
    assert status_of(layer) == "patched"
    assert not SEEN


class Attention(Qwen3Attention):
    def forward(self, hidden_states, position_embeddings, attention_mask, **kwargs):
        SEEN.append(hidden_states.shape)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return self.o_proj(query.transpose(1, 2).flatten(2)), None


apply_rotary_pos_emb = modeling_qwen3.apply_rotary_pos_emb


def test_attention_that_may_leave_something_behind_is_not_run():
    SEEN.clear()
    attention = Attention(Qwen3Config(**SMALL), 0)
    rows = [row for row in patch(nn.Sequential(attention)).report() if row.path == "0"]
    assert any("SEEN" in row.status for row in rows)
    assert any(row.role == "rope" and row.status == "patched" for row in rows)
    assert not SEEN
