"""Modules under Liger Kernel's names give what the Hugging Face modules give that they replace."""

from types import SimpleNamespace

import pytest
import torch
from accuracy import assert_refused
from liger_jit import transformers as liger
from liger_jit.transformers import functional as liger_functional

CONFIG = SimpleNamespace(
    hidden_size=32,
    intermediate_size=48,
    hidden_act="silu",
    hidden_activation="gelu_pytorch_tanh",
    mlp_bias=False,
    num_experts=2,
    moe_intermediate_size=24,
)


def same_as(mine, theirs, x):
    """Loads theirs' weights into mine and compares outputs and gradients."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    mine.load_state_dict(theirs.state_dict())
    grads = []
    for module in (mine, theirs):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.square().mean().backward()
        grads.append([y, leaf.grad, *(p.grad for _, p in sorted(module.named_parameters()))])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_feed_forward_modules_match_those_of_the_models(device):
    from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
    from transformers.models.hunyuan_v1_moe.modeling_hunyuan_v1_moe import HunYuanMoEV1MLP
    from transformers.models.llama.modeling_llama import LlamaMLP
    from transformers.models.phi3.modeling_phi3 import Phi3MLP
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeMLP

    x = torch.randn(2, 5, 32, device=device)
    biased = SimpleNamespace(**{**vars(CONFIG), "mlp_bias": True})
    pairs = [
        (liger.LigerMLP(CONFIG), LlamaMLP(CONFIG)),
        (liger.LigerMLP(biased), LlamaMLP(biased)),
        (liger.LigerHunyuanV1SwiGLUMLP(CONFIG, 3, True), HunYuanMoEV1MLP(CONFIG)),
        (liger.LigerTiledSwiGLUMLP(CONFIG, 3), LlamaMLP(CONFIG)),
        (liger.LigerTiledGEGLUMLP(CONFIG), Gemma2MLP(CONFIG)),
        (liger.LigerSwiGLUMLP(CONFIG), LlamaMLP(CONFIG)),
        (liger.LigerSwiGLUMLP(biased), LlamaMLP(biased)),
        (liger.LigerGEGLUMLP(CONFIG), Gemma2MLP(CONFIG)),
        (liger.LigerPhi3SwiGLUMLP(CONFIG), Phi3MLP(CONFIG)),
        (liger.LigerQwen3MoeSwiGLUMLP(CONFIG, 24), Qwen3MoeMLP(CONFIG, 24)),
    ]
    for mine, theirs in pairs:
        same_as(mine.to(device), theirs.to(device), x)


def test_muse_glimmers_feed_forward_module_matches(device):
    model = pytest.importorskip("transformers.models.muse_glimmer.modeling_muse_glimmer")
    config = SimpleNamespace(**{**vars(CONFIG), "hidden_activation": "silu"})
    mine, theirs = liger.LigerSwiGLUMLPForMuseGlimmer(config), model.MuseGlimmerTextMLP(config)
    x = torch.randn(2, 5, 32, device=device)
    same_as(mine.to(device), theirs.to(device), x)


@pytest.mark.parametrize("mlp_bias", [False, True])
@pytest.mark.parametrize("name", ["LigerFalconH1MLP", "LigerFalconH1SwiGLUMLP"])
def test_the_multipliers_of_falcon_h1_are_kept(device, name, mlp_bias):
    from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP

    options = {"mlp_bias": mlp_bias, "mlp_multipliers": [0.88, 0.3]}
    config = SimpleNamespace(**{**vars(CONFIG), **options})
    mine, theirs = getattr(liger, name)(config), FalconH1MLP(config)
    same_as(mine.to(device), theirs.to(device), torch.randn(2, 5, 32, device=device))


@pytest.mark.parametrize("layer, width", [(None, 48), (0, 48), (1, 96)])
def test_a_layer_of_gemma_4_that_reuses_keys_may_be_twice_as_wide(device, layer, width):
    gemma4 = pytest.importorskip("transformers.models.gemma4.modeling_gemma4")
    modes = {"use_double_wide_mlp": True, "kv_sharing_modes": ["own", "reuse"]}
    older = {"use_double_wide_mlp": True, "num_hidden_layers": 2, "num_kv_shared_layers": 1}
    for options in (modes, older):
        config = SimpleNamespace(**{**vars(CONFIG), **options})
        assert liger.LigerGEGLUMLPForGemma4(config, layer).gate_proj.out_features == width
    if layer is not None:
        config = SimpleNamespace(**{**vars(CONFIG), **older, **modes})
        mine, theirs = (
            liger.LigerGEGLUMLPForGemma4(config, layer),
            gemma4.Gemma4TextMLP(config, layer),
        )
        same_as(mine.to(device), theirs.to(device), torch.randn(2, 5, 32, device=device))


def test_a_whole_mlp_calls_a_projection_that_is_more_than_its_weight(device):
    x = torch.randn(4, 32, device=device)
    for mlp in (liger.LigerMLP(CONFIG), liger.LigerTiledSwiGLUMLP(CONFIG, 2)):
        mlp = mlp.to(device)
        seen = []
        hook = mlp.up_proj.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        hooked = mlp(x)
        assert seen
        hook.remove()
        torch.testing.assert_close(hooked, mlp(x))


@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
def test_a_projection_may_be_any_function(device, name):
    x = torch.randn(4, 32, device=device)
    for mlp in (liger.LigerMLP(CONFIG), liger.LigerTiledSwiGLUMLP(CONFIG, 2)):
        mlp = mlp.to(device)
        wanted = mlp(x)
        projection = mlp.get_submodule(name)
        delattr(mlp, name)
        setattr(mlp, name, lambda x, projection=projection: projection(x))
        torch.testing.assert_close(mlp(x), wanted)


def test_the_mixtral_expert_is_gated_by_its_first_projection(device):
    expert = liger.LigerBlockSparseTop2MLP(CONFIG).to(device)
    x = torch.randn(3, 32, device=device)
    wanted = expert.w2(torch.nn.functional.silu(expert.w1(x)) * expert.w3(x))
    torch.testing.assert_close(expert(x), wanted)


def test_norm_modules_match_those_of_the_models(device):
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm

    x = torch.randn(2, 5, 32, device=device)
    pairs = [
        (liger.LigerRMSNorm(32, 1e-5), LlamaRMSNorm(32, 1e-5)),
        (liger.LigerRMSNormForGemma2(32, 1e-5), Gemma2RMSNorm(32, 1e-5)),
        (liger.LigerRMSNormForGemma3(32, 1e-5), Gemma3RMSNorm(32, 1e-5)),
        (liger.LigerRMSNormForOlmo2(32, 1e-5), Olmo2RMSNorm(32, 1e-5)),
        (liger.LigerRMSNormForQwen3Next(32, 1e-5), Qwen3NextRMSNorm(32, 1e-5)),
    ]
    for mine, theirs in pairs:
        assert torch.equal(mine.weight, theirs.weight)  # the same start
        same_as(mine.to(device), theirs.to(device), x)


def test_the_layer_norm_module_matches_that_of_torch(device):
    mine, theirs = liger.LigerLayerNorm(32, 1e-5, bias=True), torch.nn.LayerNorm(32, 1e-5)
    assert torch.equal(mine.weight, theirs.weight)
    assert torch.equal(mine.bias, theirs.bias)
    same_as(mine.to(device), theirs.to(device), torch.randn(2, 5, 32, device=device))


def test_norms_without_a_weight_or_after_a_sum_work(device):
    x, residual = torch.randn(2, 5, 32, device=device)
    bare = liger.LigerRMSNorm(32, elementwise_affine=False)
    assert not list(bare.parameters())
    y, total = liger.LigerFusedAddRMSNorm(32).to(device)(x, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, bare(total))


def test_a_layer_norm_without_bias_does_not_train_one():
    norm = liger.LigerLayerNorm(32)
    assert [name for name, p in norm.named_parameters() if p.requires_grad] == ["weight"]


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize(
    "model, norm, mine",
    [
        ("gemma4", "Gemma4RMSNorm", liger.rms_norm.LigerRMSNormForGemma4),
        ("muse_glimmer", "MuseGlimmerRMSNorm", liger.LigerRMSNormForMuseGlimmer),
    ],
)
def test_norms_that_may_have_no_scale_match_those_of_the_models(
    device, model, norm, mine, with_scale
):
    module = pytest.importorskip(f"transformers.models.{model}.modeling_{model}")
    theirs = getattr(module, norm)(32, 1e-5, with_scale=with_scale)
    mine = mine(32, 1e-5, with_scale=with_scale)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    if with_scale:
        assert torch.equal(mine.weight, theirs.weight)  # the same start
    same_as(mine.to(device), theirs.to(device), torch.randn(2, 5, 32, device=device))


def test_muse_glimmers_centred_norm_matches(device):
    model = pytest.importorskip("transformers.models.muse_glimmer.modeling_muse_glimmer")
    mine = liger.LigerRMSNormForMuseGlimmerTextCentered(32, 1e-5)
    theirs = model.MuseGlimmerTextCenteredRMSNorm(32, 1e-5)
    assert torch.equal(mine.weight, theirs.weight)  # the same start
    same_as(mine.to(device), theirs.to(device), torch.randn(2, 5, 32, device=device))


def test_muse_glimmers_norm_without_a_scale_needs_no_size(device):
    x = torch.randn(2, 5, 32, device=device)
    bare = liger.LigerRMSNormForMuseGlimmer(with_scale=False)
    torch.testing.assert_close(bare(x), torch.nn.functional.rms_norm(x, [32], eps=1e-6))


def test_norms_keep_the_names_that_code_for_liger_reads():
    norm = liger.LigerLayerNorm(32, 1e-5, impl="triton", mode="fast", backend="other")
    assert (norm.eps, norm.impl, norm.mode, norm.backend) == (1e-5, "triton", "fast", "triton")
    old = liger.LigerLayerNorm(32, backend="triton")
    assert old.impl == old.backend == "triton"
    old.backend = None
    assert old.impl is None
    assert liger.LigerGroupNorm(8, 2, 1e-5).eps == 1e-5


def test_a_configuration_may_leave_the_activation_to_the_module(device):
    unnamed = {name: value for name, value in vars(CONFIG).items() if "hidden_act" not in name}
    x = torch.randn(4, 32, device=device)
    tiled = liger.LigerTiledSwiGLUMLP(SimpleNamespace(**unnamed), 2).to(device)
    wanted = tiled.down_proj(torch.nn.functional.silu(tiled.gate_proj(x)) * tiled.up_proj(x))
    torch.testing.assert_close(tiled(x), wanted)
    liger.LigerSwiGLUMLPForMuseGlimmer(SimpleNamespace(**unnamed, hidden_act="silu"))
    other = SimpleNamespace(**unnamed, hidden_act="silu", hidden_activation="gelu")
    assert_refused(
        lambda: liger.LigerSwiGLUMLPForMuseGlimmer(other), "hidden_activation", "gelu", "silu"
    )


def test_the_rotary_embedding_matches_that_of_the_models(device):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = torch.randn(2, 4, 9, 16, device=device), torch.randn(2, 2, 9, 16, device=device)
    angle = torch.randn(1, 9, 8, device=device).repeat(1, 1, 2)
    wanted = apply_rotary_pos_emb(q, k, angle.cos(), angle.sin())
    mine = liger.liger_rotary_pos_emb(q, k, angle.cos(), angle.sin())
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert_refused(
        lambda: liger.liger_rotary_pos_emb(q, k, angle, angle, rotary_dim=8),
        "rotary_dim",
        "8",
        "16",
    )


def test_losses_return_a_number_or_with_a_flag_an_output_object(device):
    logits, head = torch.randn(5, 32, device=device), torch.randn(11, 32, device=device)
    target = torch.tensor([0, 10, -100, 3, 4], device=device)
    plain = torch.nn.functional.cross_entropy(logits @ head.t(), target)
    fused = liger.LigerFusedLinearCrossEntropyLoss()
    torch.testing.assert_close(fused(head, logits, target), plain)
    torch.testing.assert_close(liger.LigerCrossEntropyLoss()(logits @ head.t(), target), plain)
    for flag in ("return_z_loss", "return_token_accuracy", "return_predicted_tokens"):
        field = flag.removeprefix("return_")
        output = liger.LigerFusedLinearCrossEntropyLoss(**{flag: True})(head, logits, target)
        assert isinstance(output, liger.CrossEntropyOutput)
        filled = {name for name, value in vars(output).items() if value is not None}
        assert filled == {"loss", field}
        other = liger.LigerCrossEntropyLoss(**{flag: True})(logits @ head.t(), target)
        torch.testing.assert_close(getattr(other, field), getattr(output, field))


def test_losses_hand_on_every_option(device):
    logits, target = (
        torch.randn(5, 11, device=device),
        torch.tensor([0, 10, 7, 3, 4], device=device),
    )
    weight = torch.rand(11, device=device)
    options = {"ignore_index": 7, "label_smoothing": 0.1, "reduction": "sum", "softcap": 4.0}
    capped = 4 * torch.tanh(logits / 4)
    wanted = torch.nn.functional.cross_entropy(
        capped, target, weight, ignore_index=7, label_smoothing=0.1, reduction="sum"
    )
    wanted = wanted + 0.01 * capped.logsumexp(-1).square()[target != 7].sum()
    module = liger.LigerCrossEntropyLoss(weight, lse_square_scale=0.01, **options)
    torch.testing.assert_close(module(logits, target), wanted)
    eye = torch.eye(11, device=device)
    module = liger.LigerFusedLinearCrossEntropyLoss(weight, lse_square_scale=0.01, **options)
    torch.testing.assert_close(module(eye, logits, target), wanted)


def test_functions_keep_the_dtype_of_their_input(device):
    x = torch.randn(4, 32, device=device).bfloat16()
    weight = torch.ones(32, device=device)
    assert liger_functional.liger_rms_norm(x, weight, 1e-6).dtype == torch.bfloat16
    y, total = liger_functional.liger_fused_add_rms_norm(x, x, weight, 1e-6)
    assert y.dtype == total.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: liger.LigerRMSNorm(8, casting_mode="bert"), ["casting_mode", "bert", "gemma"]),
        (liger.LigerRMSNormForMuseGlimmer, ["MuseGlimmer", "dim=None", "with_scale=False"]),
        (lambda: liger.LigerRMSNorm(8, init_fn="twos"), ["LigerRMSNorm", "init_fn", "twos"]),
        (lambda: liger.LigerCrossEntropyLoss(reduction="avg"), ["reduction", "avg", "mean"]),
        (lambda: liger.LigerCrossEntropyLoss(label_smoothing=2), ["label_smoothing", "2"]),
        (lambda: liger.LigerFusedLinearCrossEntropyLoss(softcap=-1), ["softcap", "-1"]),
        (
            lambda: liger.LigerSwiGLUMLP(SimpleNamespace(**{**vars(CONFIG), "hidden_act": "relu"})),
            ["LigerSwiGLUMLP", "hidden_act", "relu", "silu"],
        ),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_the_module_is_made(make, words):
    assert_refused(make, *words)
