"""Every family: the loss and all gradients of a patched model are those of the unpatched one."""

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import (
    FAMILIES,
    assert_same_step,
    batch,
    build,
    counted,
    error,
    in_float32,
    loss_and_gradients,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_step(family, monkeypatch):
    model = build(family)
    expected = loss_and_gradients(model)
    handle = patch(model)
    assert all(row.patched for row in handle.report()), str(handle.report())
    with counted(monkeypatch) as calls:
        found = loss_and_gradients(model)
    assert_same_step(found, expected)
    assert calls == {
        "rms_norm": 3,
        "fused_add_rms_norm": 2,
        "gated_mlp": 2,
        "qk_norm_rope" if family == "Qwen3" else "rope": 2,
        "fused_linear_cross_entropy": 1,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_step_is_as_exact_as_eager(family):
    model = build(family, torch.bfloat16)
    exact_loss, exact = loss_and_gradients(in_float32(model))
    eager_loss, eager = loss_and_gradients(model)
    handle = patch(model)
    assert all(row.patched for row in handle.report()), str(handle.report())
    loss, gradients = loss_and_gradients(model)
    assert error(loss, exact_loss) <= 2 * error(eager_loss, exact_loss) + 1e-3
    for name, gradient in exact.items():
        assert error(gradients[name], gradient) <= 2 * error(eager[name], gradient), name


def test_mixed_dtypes_of_norms_that_are_kept_in_float32():
    model = build("Llama", torch.bfloat16)
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.float()
    x = torch.randn(2, 5, 32, dtype=torch.bfloat16)
    expected = model.model.norm(x)
    patch(model)
    found = model.model.norm(x)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


def test_autocast_is_as_exact_as_eager(monkeypatch):
    model = build()
    exact = loss_and_gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        eager = loss_and_gradients(model)
        patch(model)
        with counted(monkeypatch) as calls:
            found = loss_and_gradients(model)
    assert calls["fused_linear_cross_entropy"] == 1
    assert calls["rope"] == 2
    assert found[0].dtype == eager[0].dtype
    assert error(found[0], exact[0]) <= 2 * error(eager[0], exact[0]) + 1e-3
    for name, gradient in exact[1].items():
        assert error(found[1][name], gradient) <= 2 * error(eager[1][name], gradient), name


def test_flags_choose_roles():
    model = build()
    expected = loss_and_gradients(model)
    handle = patch(model, rope=False, rms_norm=False, layer_norm=False)
    status = {row.role: row.status for row in handle.report()}
    assert status["swiglu"] == "patched"
    assert status["rotary"] == "turned off (rope=False)"
    assert status["norm"] == "turned off (rms_norm=False)"
    assert "forward" not in model.model.norm.__dict__
    assert_same_step(loss_and_gradients(model), expected)


def test_layer_norm_and_biased_head():
    import transformers

    config = transformers.PhiConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=64, partial_rotary_factor=0.5,
        resid_pdrop=0.0, attn_implementation="eager", pad_token_id=0,
    )  # fmt: skip
    model = transformers.PhiForCausalLM(config).train()
    assert model.lm_head.bias is not None
    torch.nn.init.normal_(model.lm_head.bias)
    expected = loss_and_gradients(model)
    counts = patch(model).report().counts
    assert counts["layer_norm"] == (2, 2)
    assert counts["fused_linear_cross_entropy"] == (1, 1)
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(use_reentrant):
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    patch(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    assert_same_step(loss_and_gradients(model), expected)


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_generation_gives_the_same_tokens(family):
    model = build(family).eval()
    ids = batch()["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = model.generate(ids, **options)
    patch(model)
    assert torch.equal(model.generate(ids, **options), expected)


# As a context around the forward does that puts noise or averages into the weights, and takes them
# back before the backward.
@pytest.mark.parametrize("family", ["Llama", "Phi3", "Mixtral"])
def test_products_have_the_gradient_of_the_weights_that_they_were_made_with(family):
    def step():
        model.zero_grad(set_to_none=True)
        loss = model(**batch()).loss
        kept = {name: p.data for name, p in model.named_parameters() if ".mlp." in name}
        assert kept
        for name in kept:
            model.get_parameter(name).data = kept[name] * 1.3
        loss.backward()
        for name, data in kept.items():
            model.get_parameter(name).data = data
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    model = build(family)
    expected = step()
    patch(model)
    assert_same_step(step(), expected)
