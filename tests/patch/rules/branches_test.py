"""Sums and norms in a branch of an `if`: one call where that branch is taken."""

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.rules.add_norm_source import norms_after_sums, shown_sums
from liger_jit.patch.rules.norm_add_source import norms_before_sums
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients, shape_of
from transformers import BartConfig, BartForConditionalGeneration

ROLE = "fused_add_layer_norm"


def sequential(family):
    return build(family, use_parallel_residual=False)


def of_layers(handle):
    return [row for row in handle.report() if row.module.endswith("Layer")]


@pytest.mark.parametrize("family", ["GPTNeoX", "StableLm"])
def test_layers_that_run_one_part_after_the_other_have_their_sums_in_norms(family, monkeypatch):
    model = sequential(family)
    before, own = shape_of(model), loss_and_gradients(model)
    handle = patch(model)
    assert [(row.role, row.status) for row in of_layers(handle)] == 2 * [(ROLE, "patched")]
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), own)
    assert calls[ROLE] == 2
    handle.unpatch()
    assert shape_of(model) == before


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("GPTNeoX", "does not come to the sum before its norm"),
        ("StableLm", "the sum goes to post_attention_layernorm, which is no norm"),
    ],
)
def test_layers_that_run_their_parts_side_by_side_are_left_alone(family, reason, monkeypatch):
    model = build(family, use_parallel_residual=True)
    own = loss_and_gradients(model)
    handle = patch(model)
    assert all(reason in row.status for row in of_layers(handle))
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), own)
    assert calls[ROLE] == 0


def test_the_branch_is_chosen_at_each_call(monkeypatch):
    model, reference = sequential("GPTNeoX"), sequential("GPTNeoX")
    patch(model)
    for one in (model, reference):
        one.gpt_neox.layers[0].use_parallel_residual = True
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), loss_and_gradients(reference))
    assert calls[ROLE] == 1


def test_attention_to_an_encoder_has_its_sum_in_a_norm(monkeypatch):
    torch.manual_seed(3)
    config = BartConfig(
        vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_position_embeddings=32, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).train()

    def step():
        loss, gradients = loss_and_gradients(model, **batch())
        # A bias of all keys changes no attention: its gradient is rounding.
        return loss, {name: one for name, one in gradients.items() if "k_proj.bias" not in name}

    own = step()
    patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(), own)
    assert calls[ROLE] == 3 * 2  # of two layers of the decoder


def nested(self, x, y):
    if self.one:
        z = self.mlp(x)
    elif self.two:
        if y is None:
            x = x + y
            z = self.mlp(self.norm(x))
        x = x + z
    return self.last(x)


def shown_after_the_branch(self, x, y):
    if self.one:
        x = x + y
        z = self.mlp(self.norm(x))
    return z, x


def shown_in_one_of_two(self, x, y):
    if self.one:
        x = x + y
        z = x * self.mlp(self.norm(x))
    else:
        x = x + y
        z = self.mlp(self.norm(x))
        self.see(x)
    return z


def normed_first(self, x, y):
    if self.one:
        y = self.norm(y)
        y = x + y
    return y


def summed_in_a_loop(self, x, y):
    for one in y:
        x = x + one
        x = self.norm(x)
    return x


@pytest.mark.parametrize(
    ("forward", "after", "shown", "before"),
    [
        (nested, ("norm",), {}, ()),
        (shown_after_the_branch, ("norm",), {"norm": "(z, x)"}, ()),
        (shown_in_one_of_two, ("norm",), {"norm": "self.see(x)"}, ()),
        (normed_first, (), {}, ("norm",)),
        (summed_in_a_loop, (), {}, ()),
    ],
)
def test_which_branches_have_sums(forward, after, shown, before):
    assert norms_after_sums(forward) == after
    assert shown_sums(forward) == shown
    assert norms_before_sums(forward) == before
