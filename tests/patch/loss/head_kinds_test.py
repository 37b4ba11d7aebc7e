"""Loss heads of every kind: a step is the one without the patch, and its loss is fused."""

import re

import pytest
import torch
import transformers
from liger_jit.patch import patch
from tiny_models import (
    SETTINGS,
    VOCABULARY,
    assert_same_step,
    batch,
    build,
    counted,
    loss_and_gradients,
    shape_of,
)
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaForCausalLM

LOSS = "fused_linear_cross_entropy"


def step(model, **inputs):
    """Without the gradients of keys' biases, which softmax takes away: rounding errors."""
    loss, gradients = loss_and_gradients(model, **inputs)
    return loss, {name: one for name, one in gradients.items() if not KEYS.search(name)}


KEYS = re.compile(r"(key|k_proj)\.bias$")


def grown(model):
    """Logits of a few units, so that an error of a scale or a bias is seen."""
    torch.manual_seed(8)
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight.mul_(10.0)
        if head.bias is not None:
            head.bias.add_(torch.randn_like(head.bias))
    return model.train()


def assert_fused(model, inputs, monkeypatch, times=1):
    """Its step is the same and has the fused loss, and it is taken back."""
    before, expected = shape_of(model), step(model, **inputs)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model, **inputs), expected)
    assert calls[LOSS] == times
    assert model(**inputs).logits is None
    handle.unpatch()
    assert shape_of(model) == before
    found = step(model, **inputs)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][name], own) for name, own in expected[1].items())


# Scales, softcaps and biases.

SCALED = {
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 3.0},
    "Gemma2": {"final_logit_softcapping": 2.0},
    "FalconH1": {
        "lm_head_multiplier": 0.5, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8,
    },
    "Phi": {},  # a bias
}  # fmt: skip


@pytest.mark.parametrize("family", SCALED)
def test_what_scales_or_shifts_logits_is_in_the_loss(family, monkeypatch):
    model = grown(build(family, **SCALED[family]))
    assert_fused(model, batch(), monkeypatch)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_tied_or_biased_head(tied, biased, monkeypatch):
    model = build(tie_word_embeddings=tied)
    if biased:
        model.lm_head.bias = nn.Parameter(torch.randn(VOCABULARY))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert_fused(model, batch(), monkeypatch)


# Heads under other names, and behind an encoder.

SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER_DECODER = {
    **SMALL, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "decoder_start_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
T5 = {
    **SMALL, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_decoder_layers": 1,
    "num_heads": 4, "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
LAYERS = {
    **SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "attention_dropout": 0.0, "hidden_dropout": 0.0,
}  # fmt: skip
BERT = {
    **LAYERS,
    "is_decoder": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BIOGPT = {**BERT, "activation_dropout": 0.0, "layerdrop": 0.0, "max_position_embeddings": 64}
HEADS = {
    "output_projection": ("BioGptForCausalLM", BIOGPT),
    "cls.predictions.decoder": ("BertLMHeadModel", BERT),
    "lm_head.decoder": ("RobertaForCausalLM", BERT),
    "lm_head": ("BartForCausalLM", ENCODER_DECODER),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_another_name(name, monkeypatch):
    kind, settings = HEADS[name]
    kind = getattr(transformers, kind)
    torch.manual_seed(3)
    model = grown(kind(kind.config_class(**settings)))
    assert dict(model.named_modules())[name] is model.get_output_embeddings()
    assert_fused(model, batch(), monkeypatch)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", ["Bart", "Marian", "T5", "MT5"])
def test_a_model_with_an_encoder(kind, scaled, monkeypatch):
    """Its loss shifts nothing: labels are those of the decoder's places."""
    model_class = getattr(
        transformers, f"{kind}MTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration"
    )
    settings = dict(T5 if "T5" in kind else ENCODER_DECODER)
    if "T5" in kind:
        settings["tie_word_embeddings"] = scaled  # which scales the states before the head
    torch.manual_seed(3)
    model = model_class(model_class.config_class(**settings)).train()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(0, 3.0 if scaled else 0.0)
    inputs = {**batch(), "decoder_attention_mask": torch.ones(2, 11)}
    expected = step(model, **inputs)
    before, handle = shape_of(model), patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model, **inputs), expected)
    assert calls[LOSS] == 1 or kind in ("Bart", "Marian")  # a buffer is added to the logits
    handle.unpatch()
    assert shape_of(model) == before


# Several heads on the same states.


class FiveHeads(LlamaForCausalLM):
    """As Medusa: each head is a block and a projection of its own, and predicts a later token."""

    def __init__(self, config, through_loss_function):
        super().__init__(config)
        self.through_loss_function = through_loss_function
        self.medusa_head = nn.ModuleList(
            nn.Sequential(Block(config.hidden_size), nn.Linear(config.hidden_size, VOCABULARY))
            for _ in range(5)
        )

    def forward(self, input_ids, labels=None, **kwargs):
        states = self.model(input_ids=input_ids).last_hidden_state
        every = [self.lm_head(states), *(head(states) for head in self.medusa_head)]
        loss = None
        if labels is not None:
            loss = sum(
                0.8**i * self.loss_of(logits, labels, i + 1) for i, logits in enumerate(every)
            )
        return CausalLMOutputWithPast(loss=loss, logits=every[0], hidden_states=tuple(every[1:]))

    def loss_of(self, logits, labels, ahead):
        later = F.pad(labels, (0, ahead), value=-100)[:, ahead:].contiguous()
        if self.through_loss_function:
            return self.loss_function(
                logits=logits, labels=None, vocab_size=VOCABULARY, shift_labels=later
            )
        return F.cross_entropy(logits.float().flatten(0, 1), later.flatten())


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.act = nn.Linear(width, width), nn.SiLU()

    def forward(self, x):
        return x + self.act(self.linear(x))


@pytest.mark.parametrize("through_loss_function", [True, False])
def test_five_more_heads(through_loss_function, monkeypatch):
    torch.manual_seed(3)
    model = FiveHeads(transformers.LlamaConfig(**SETTINGS), through_loss_function)
    model = grown(model)
    expected = step(model)
    handle = patch(model)
    with counted(monkeypatch) as calls:
        found = step(model)
    assert_same_step(found, expected)
    assert calls[LOSS] == 1  # of the model's own head; the others' logits are real
    output = model(**batch())
    assert output.logits is None
    assert [type(logits) for logits in output.hidden_states] == [torch.Tensor] * 5
    handle.unpatch()
    assert_same_step(step(model), expected, 0.0)


class Stacked(FiveHeads):
    """All logits in one tensor, as Medusa's own forward returns them."""

    def forward(self, input_ids, labels=None, **kwargs):
        output = super().forward(input_ids, None)
        every = torch.stack([output.logits, *output.hidden_states])
        loss = sum(self.loss_of(logits, labels, i + 1) for i, logits in enumerate(every))
        return CausalLMOutputWithPast(loss=loss, logits=every)


def test_logits_of_several_heads_in_one_tensor():
    torch.manual_seed(3)
    model = grown(Stacked(transformers.LlamaConfig(**SETTINGS), False))
    expected = step(model)
    logits = model(**batch()).logits
    patch(model)
    assert_same_step(step(model), expected)
    assert torch.allclose(model(**batch()).logits, logits, atol=1e-4)


# What a forward is asked for.


@pytest.mark.parametrize("keep", [1, 4, torch.tensor([0, 3, 9, 10])], ids=["1", "4", "places"])
@pytest.mark.parametrize("training", [True, False])
def test_logits_to_keep(keep, training, monkeypatch):
    model = build().train(training)
    ids = batch()["input_ids"]
    places = keep if isinstance(keep, torch.Tensor) else slice(-keep, None)
    inputs = {"input_ids": ids, "logits_to_keep": keep}
    logits = model(**inputs).logits
    assert logits.shape[1] == ids[:, places].shape[1] < ids.shape[1]
    shifted = {**inputs, **dict.fromkeys(("labels", "shift_labels"), ids[:, places].contiguous())}
    expected = step(model, **shifted)
    patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model, **shifted), expected)
    assert calls[LOSS] == training
    assert torch.allclose(model(**inputs).logits, logits, atol=1e-5)
    kept = model(**shifted, skip_logits=False).logits
    assert torch.allclose(kept, logits, atol=1e-5)


@pytest.mark.parametrize("items", [7, torch.tensor(7), torch.tensor(7.5)], ids=str)
@pytest.mark.parametrize("shifted", [True, False])
def test_items_and_shifted_labels_together(items, shifted, monkeypatch):
    model = build()
    inputs = {**batch(), "num_items_in_batch": items}
    if shifted:
        inputs["shift_labels"] = F.pad(inputs["labels"], (0, 1), value=-100)[:, 1:].contiguous()
    expected = step(model, **inputs)
    patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model, **inputs), expected)
    assert calls[LOSS] == 1


# Losses beside that of the tokens.

EXPERTS = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "decoder_sparse_step": 1,
    },
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip


@pytest.mark.parametrize("family", EXPERTS)
def test_the_loss_of_a_router_is_added(family, monkeypatch):
    model = build(family, **EXPERTS[family], output_router_logits=True, router_aux_loss_coef=3.0)
    expected, own = step(model), model(**batch())
    handle = patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(step(model), expected)
        output = model(**batch())
    assert calls[LOSS] == 2
    assert torch.allclose(output.aux_loss, own.aux_loss)
    assert output.loss - 3.0 * output.aux_loss < own.loss
    handle.unpatch()
    assert_same_step(step(model), expected, 0.0)
