"""Names, argument order and defaults are those that code written for Liger Kernel relies on.

The tables were read from the public modules of Liger Kernel 0.8.5; what is imported there as
liger_kernel.transformers.X must be importable as liger_jit.transformers.X. OWN_FUNCTIONS and
OWN_MODULES are not there under these names.
"""

import importlib
import inspect
import subprocess
import sys

import pytest

_NORM = "eps=1e-06, offset=0.0, casting_mode='llama', init_fn='ones', in_place="
_GEMMA = "eps=1e-06, offset=1.0, casting_mode='gemma', init_fn='zeros', in_place="
_UNSHIFTED = (
    "eps=1e-06, offset=0.0, casting_mode='gemma', init_fn='ones', in_place=False, with_scale=True"
)
_EXTRAS = "return_token_accuracy=False, return_predicted_tokens=False"
_LOSS = (
    "ignore_index=-100, lse_square_scale=0.0, label_smoothing=0.0, reduction='mean', softcap=None"
)
_FUSED = f"return_z_loss=False, accum_dtype=None, use_token_scaling=False, {_EXTRAS}"

_MHC = "allow_fp32=False, tmax=20, rms_eps=1e-06, pre_eps=0.0, sinkhorn_eps=1e-06, post_mult=2.0"

FUNCTIONS = {
    "functional.liger_mhc_coeffs": f"x, phi, b, alpha_pre, alpha_post, alpha_res, {_MHC}",
    "functional.liger_mhc_pre": "x, h_pre",
    "functional.liger_mhc_post_res": "x, f_out, h_post, h_res",
    "functional.liger_mhc_apply": "x, f_out, h_pre, h_post, h_res, return_x_in=False",
    "functional.liger_mhc_forward": "x, layer, phi, b, alpha_pre, alpha_post, alpha_res, "
    f"{_MHC}, return_coeffs=False",
    "functional.liger_attn_res": "V, w_query, w_norm, eps=1e-06",
    "functional.liger_cross_entropy": "input, target, weight=None, size_average=None, "
    "ignore_index=-100, reduce=None, reduction='mean', label_smoothing=0.0, lse_square_scale=0.0, "
    f"softcap=None, return_z_loss=False, {_EXTRAS}",
    "functional.liger_fused_linear_cross_entropy": "input, weight, target, bias=None, "
    f"ce_weight=None, {_LOSS}, {_FUSED}, chunk_mem_const=1",
    "functional.liger_fused_linear_jsd": "student_input, student_weight, teacher_input, "
    "teacher_weight, shift_labels=None, jsd_beta=0.5, ignore_index=-100, temperature=1.0, "
    "accum_dtype=None",
    "functional.liger_fused_linear_kl_div": "student_input, student_weight, target, "
    "shift_labels=None, reduction='batchmean', ignore_index=-100, temperature=1.0, eps=1e-10, "
    "accum_dtype=None",
    "functional.liger_fused_linear_scaled_cross_entropy_tp": "input, weight, target, tp_group, "
    "temperature=1.0, ignore_index=-100, tiles_per_reduce=1, return_entropy=False",
    "functional.liger_dyt": "x, alpha, gamma, beta",
    "functional.liger_geglu": "a, b",
    "functional.liger_group_norm": "X, affine_scaling_weight, affine_shifting_bias, num_channels, "
    "num_groups, eps",
    "functional.liger_poly_norm": "X, W, B, eps=1e-06, in_place=True",
    "functional.liger_relu_squared": "x",
    "functional.liger_softmax": "x",
    "functional.liger_sparsemax": "input, dim=-1",
    "functional.liger_swiglu": "a, b",
    "functional.liger_kl_div": "input, target, size_average=True, reduce=True, reduction='mean', "
    "log_target=False, eps=1e-10",
    "functional.liger_jsd": "input, target, shift_labels=None, beta=0.5, ignore_index=-100",
    "functional.liger_tvd": "input, target, shift_labels=None, reduction='mean', ignore_index=-100",
    "functional.liger_layer_norm": "X, W, B, eps",
    "functional.liger_rms_norm": "X, W, eps, offset=0.0, casting_mode='llama', in_place=True",
    "functional.liger_modulated_rms_norm": "X, W, scale, shift=None, eps=1e-06, offset=0.0, "
    "casting_mode='llama', in_place=True",
    "functional.liger_fused_add_rms_norm": "X, R, W, eps, offset=0.0, casting_mode='llama', "
    "in_place=True",
    "functional.liger_rope": "q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None",
    "rope.liger_rotary_pos_emb": "q, k, cos, sin, position_ids=None, unsqueeze_dim=1, "
    "rotary_dim=None",
    "rope.liger_rotary_pos_emb_gpt_oss": "q, k, cos, sin",
    "rope.liger_rotary_pos_emb_vision": "q, k, cos, sin",
    "functional.liger_qwen2vl_mrope": "q, k, cos, sin, mrope_section, unsqueeze_dim=1",
    "qwen2vl_mrope.liger_multimodal_rotary_pos_emb": "q, k, cos, sin, mrope_section, "
    "unsqueeze_dim=1",
    "llama4_rope.liger_llama4_text_rotary_pos_emb": "xq, xk, freqs_cis",
    "llama4_rope.liger_llama4_vision_rotary_pos_emb": "query, key, freqs_ci",
    "llama4_rope.apply_liger_llama4_rope_full": "modeling_module",
}

# The product is in liger_kernel.ops.experimental there.
OWN_FUNCTIONS = {
    "experimental.mm_int8int2.matmul": "a, b",
    "experimental.mm_int8int2.pack_weights": "intweights, bits=2",
    "experimental.mm_int8int2.unpack_weights": "packed, bits=2",
    "functional.liger_llama4_text_rope": "xq, xk, freqs_cis",
    "functional.liger_llama4_vision_rope": "query, key, freqs_ci",
}

# Arguments of the constructor, then of forward.
MODULES = {
    "mhc.LigerMHC": (
        "layer, hc, c, tmax=20, rms_eps=1e-06, pre_eps=0.0, sinkhorn_eps=1e-06, post_mult=2.0, "
        "phi_dtype=torch.float16, allow_fp32=False",
        "x",
    ),
    "cross_entropy.LigerCrossEntropyLoss": (
        f"weight=None, {_LOSS}, return_z_loss=False, {_EXTRAS}",
        "_input, target",
    ),
    "fused_linear_cross_entropy.LigerFusedLinearCrossEntropyLoss": (
        f"ce_weight=None, {_LOSS}, {_FUSED}",
        "lin_weight, _input, target, bias=None",
    ),
    "fused_linear_jsd.LigerFusedLinearJSD": (
        "jsd_beta=0.5, ignore_index=-100, temperature=1.0, accum_dtype=None",
        "student_input, student_weight, teacher_input, teacher_weight, shift_labels",
    ),
    "fused_linear_kl_div.LigerFusedLinearKLDivLoss": (
        "reduction='batchmean', ignore_index=-100, temperature=1.0, eps=1e-10, accum_dtype=None",
        "student_input, student_weight, target, shift_labels=None",
    ),
    "fused_add_rms_norm.LigerFusedAddRMSNorm": (
        f"hidden_size, {_NORM}False",
        "hidden_states, residual",
    ),
    "dyt.LigerDyT": ("hidden_size, beta=True, init_alpha=0.5", "x"),
    "geglu.LigerGEGLUMLP": ("config", "x"),
    "group_norm.LigerGroupNorm": (
        "num_channels, num_groups, eps=1e-06, bias=False, init_fn='ones'",
        "hidden_states",
    ),
    "geglu.LigerGEGLUMLPForGemma4": ("config, layer_idx=None", "x"),
    "layer_norm.LigerLayerNorm": (
        "hidden_size, eps=1e-06, bias=False, init_fn='ones', impl=None, mode=None, backend=None",
        "hidden_states",
    ),
    "poly_norm.LigerPolyNorm": ("eps=1e-06, in_place=True", "hidden_states"),
    "relu_squared.LigerReLUSquared": ("", "x"),
    "experimental.embedding.LigerEmbedding": (
        "num_embeddings, embedding_dim, padding_idx=None",
        "indices",
    ),
    "modulated_rms_norm.LigerModulatedRMSNorm": (
        f"hidden_size, {_NORM}True, elementwise_affine=True",
        "hidden_states, scale, shift=None",
    ),
    "rms_norm.LigerRMSNorm": (
        f"hidden_size, {_NORM}True, row_mode=None, elementwise_affine=True",
        "hidden_states",
    ),
    "rms_norm.LigerRMSNormForGemma": (f"hidden_size, {_GEMMA}True, row_mode=None", "hidden_states"),
    "rms_norm.LigerRMSNormForGemma2": (
        f"hidden_size, {_GEMMA}False, row_mode=None",
        "hidden_states",
    ),
    "rms_norm.LigerRMSNormForGemma3": (f"dim, {_GEMMA}False", "hidden_states"),
    "rms_norm.LigerRMSNormForGemma4": (f"dim, {_UNSHIFTED}", "hidden_states"),
    "rms_norm.LigerRMSNormForMuseGlimmer": (f"dim=None, {_UNSHIFTED}", "hidden_states"),
    "rms_norm.LigerRMSNormForMuseGlimmerTextCentered": (
        f"hidden_size, {_GEMMA}False, row_mode=None",
        "hidden_states",
    ),
    "rms_norm.LigerRMSNormForOlmo2": (f"hidden_size, {_NORM}False, row_mode=None", "hidden_states"),
    "rms_norm.LigerRMSNormForGlm4": (f"hidden_size, {_NORM}False, row_mode=None", "hidden_states"),
    "rms_norm.LigerRMSNormForQwen3Next": (
        f"hidden_size, {_GEMMA}False, row_mode=None",
        "hidden_states",
    ),
    "vocab_parallel_cross_entropy.LigerVocabParallelCrossEntropy": (
        "ignore_index=-100, label_smoothing=0.0, reduction='none', "
        "label_smoothing_formula='pytorch', label_smoothing_mode='global'",
        "vocab_parallel_logits, target, tp_group=None",
    ),
    "mlp.LigerMLP": ("config", "x"),
    "mlp.LigerFalconH1MLP": ("config", "x"),
    "softmax.LigerSoftmax": ("", "x"),
    "sparsemax.LigerSparsemax": ("dim=-1", "x"),
    "fused_ce_tvd.LigerFusedCETVDLoss": (
        "ignore_index=-100",
        "student_logits, teacher_logits, target",
    ),
    "kl_div.LigerKLDIVLoss": ("eps=1e-10, *args, **kwargs", "y_pred, y_true"),
    "jsd.LigerJSD": ("beta=0.5, ignore_index=-100", "log_q, log_p, shift_labels=None"),
    "tvd.LigerTVDLoss": (
        "reduction='batchmean', ignore_index=-100",
        "p, q, shift_labels=None",
    ),
    "swiglu.LigerSwiGLUMLP": ("config, intermediate_size=None", "x"),
    "swiglu.LigerBlockSparseTop2MLP": ("config", "x"),
    "swiglu.LigerPhi3SwiGLUMLP": ("config", "x"),
    "swiglu.LigerQwen3MoeSwiGLUMLP": ("config, intermediate_size=None", "x"),
    "swiglu.LigerHunyuanV1SwiGLUMLP": ("config, layer_idx=None, is_shared_mlp=False", "x"),
    "swiglu.LigerFalconH1SwiGLUMLP": ("config", "x"),
    "swiglu.LigerSwiGLUMLPForMuseGlimmer": ("config", "x"),
    "swiglu.LigerExperts": ("config", "hidden_states, top_k_index, top_k_weights"),
    "moe.LigerExpertParallelFusedMoe": (
        "process_group=None",
        "hidden_states, expert_indices, expert_weights, all_B, all_C, all_A, num_experts",
    ),
    "tiled_mlp.LigerTiledGEGLUMLP": ("config, num_shards=None", "x"),
    "tiled_mlp.LigerTiledSwiGLUMLP": ("config, num_shards=None", "x"),
}

# The class of a function that is there alone.
OWN_MODULES = {
    "attn_res.LigerAttnRes": ("hidden_size, eps=1e-06, query_init_std=0.02", "V"),
}

_LOSSES = "cross_entropy=False, fused_linear_cross_entropy=True"
_NORMS = f"rope=True, {_LOSSES}, rms_norm=True"
_SWIGLU = f"{_NORMS}, swiglu=True, model=None"
_SWIGLU_NO_ROPE = _SWIGLU.replace("rope=True", "rope=False")
_GEGLU = f"{_NORMS}, geglu=True, model=None"
_TOWER = f"rope=True, {_LOSSES}, layer_norm=True, rms_norm=True"
_ANY_TEXT = f"{_LOSSES}, rms_norm=True, layer_norm=True, model=None, **kwargs"

# Arguments of apply_liger_kernel_to_X.
PATCHES = {
    **dict.fromkeys(
        (
            *("llama", "smollm3", "ministral", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"),
            *("qwen2_5_vl", "qwen3_vl_moe", "phi3", "olmo2", "olmo3", "falcon_h1"),
            *("hunyuan_v1_dense", "hunyuan_v1_moe", "exaone4"),
        ),
        _SWIGLU,
    ),
    **dict.fromkeys(
        (
            *("glm4", "glm4v", "glm4v_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe"),
            *("deepseek_v2", "deepseek_v3"),
        ),
        _SWIGLU_NO_ROPE,
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEGLU),
    **dict.fromkeys(("gemma3", "paligemma"), f"{_TOWER}, geglu=True, model=None"),
    **dict.fromkeys(("mllama", "muse_glimmer"), f"{_TOWER}, swiglu=True, model=None"),
    **dict.fromkeys(("internvl", "smolvlm"), _ANY_TEXT),
    **dict.fromkeys(("gpt_oss", "qwen3_vl"), f"{_NORMS}, swiglu=False, model=None"),
    "granite": "rope=True, cross_entropy=True, fused_linear_cross_entropy=False, rms_norm=True, "
    "swiglu=True, model=None",
    "llama4": f"{_SWIGLU}, layer_norm=True",
    "llava": f"{_LOSSES}, model=None, **kwargs",
    "nemotron": f"relu_squared=True, {_LOSSES}, model=None, **kwargs",
    "pixtral": "rope=True, rms_norm=True, swiglu=True, model=None",
    "gemma4_text": f"rope=False, {_LOSSES}, rms_norm=True, geglu=True, model=None",
    "gemma4": f"rope=False, {_LOSSES}, layer_norm=False, rms_norm=True, geglu=True, model=None",
    "qwen2_vl": f"{_NORMS}, layer_norm=True, swiglu=True, model=None",
    "deepseek_v4": f"rope=False, {_LOSSES}, rms_norm=True, swiglu=False, model=None",
}
# Types of text parts, and the function for each.
TEXT_PARTS = {
    "mllama_text_model": "mllama",
    **{
        f"{name}_text": name
        for name in ("llama4", "qwen2_vl", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe")
    },
    **{f"{name}_text": name for name in ("qwen3_vl", "qwen3_vl_moe")},
}

# Importable from liger_jit.transformers itself.
TOP = [
    *(
        name.split(".")[1]
        for name in MODULES | OWN_MODULES
        if not name.startswith("experimental.") and name != "rms_norm.LigerRMSNormForGemma4"
    ),
    "CrossEntropyOutput",
    "is_transformers_available",
    "liger_llama4_text_rotary_pos_emb",
    "liger_llama4_vision_rotary_pos_emb",
    "liger_multimodal_rotary_pos_emb",
    "liger_rotary_pos_emb",
]


def named(path):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"liger_jit.transformers.{module}"), name)


def arguments(function):
    """The signature as text, without annotations and self."""
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
    return ", ".join(str(parameter) for parameter in plain)


@pytest.mark.parametrize("path", FUNCTIONS | OWN_FUNCTIONS)
def test_functions_take_the_arguments_of_the_table(path):
    assert arguments(named(path)) == (FUNCTIONS | OWN_FUNCTIONS)[path]


@pytest.mark.parametrize("path", MODULES | OWN_MODULES)
def test_modules_take_the_arguments_of_the_table(path):
    constructor, forward = (MODULES | OWN_MODULES)[path]
    assert arguments(named(path).__init__) == constructor
    assert arguments(named(path).forward) == forward


@pytest.mark.parametrize("name", PATCHES)
def test_patch_functions_take_the_arguments_of_the_table(name):
    function = named(f"monkey_patch.apply_liger_kernel_to_{name}")
    assert arguments(function) == PATCHES[name]
    assert function.__name__ == f"apply_liger_kernel_to_{name}"
    # Help says what each flag is for, and what becomes of other roles.
    for flag in inspect.signature(function).parameters:
        assert f"{flag}:" in function.__doc__ or f"{flag}," in function.__doc__
    revert = named(f"monkey_patch.revert_liger_kernel_to_{name}")
    assert arguments(revert) == ""
    assert revert() is None


def test_each_model_type_has_its_patch_function():
    functions = named("monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN")
    assert len(PATCHES) == 45
    assert functions.keys() == {*PATCHES, *TEXT_PARTS}
    package = importlib.import_module("liger_jit.transformers")
    for model_type, function in functions.items():
        owner = TEXT_PARTS.get(model_type, model_type)
        assert function.__name__ == f"apply_liger_kernel_to_{owner}"
        # By the name of the type as well, from both modules.
        name = f"apply_liger_kernel_to_{model_type}"
        assert getattr(package, name) is function
        assert name in dir(package)
        assert named(f"monkey_patch.{name}") is function


# What trainers import from liger_kernel.ops.
OPS = {
    "fused_linear_scaled_cross_entropy.LigerFusedLinearScaledCrossEntropyFunction.apply": "_input, "
    "weight, target, temperature=1.0, ignore_index=-100, m_tiles_per_cluster=1, "
    "return_entropy=False, selected_token_ids=None",
    "grpo_loss.fused_selective_log_softmax": "logits, input_ids, temperature=0.9, mask=None",
}


@pytest.mark.parametrize("path", OPS)
def test_ops_take_the_arguments_of_the_table(path):
    module, *names = path.split(".")
    found = importlib.import_module(f"liger_jit.ops.{module}")
    for name in names:
        found = getattr(found, name)
    assert arguments(found) == OPS[path]


def test_what_trainers_import_is_there():
    ops = importlib.import_module("liger_jit.ops")
    module = importlib.import_module("liger_jit.ops.fused_linear_scaled_cross_entropy")
    name = "LigerFusedLinearScaledCrossEntropyFunction"
    assert getattr(ops, name) is getattr(module, name)
    package = importlib.import_module("liger_jit.transformers")
    assert arguments(package._apply_liger_kernel) == "model_type, **kwargs"
    assert arguments(package._apply_liger_kernel_to_instance) == "model, **kwargs"


# The losses of liger_kernel.chunked_loss, with their modules there and their functions. What they
# take stands beside their tests, in chunked_loss_test.py and its neighbours.
CHUNKED = {
    "CosineSimilarity": ("cosine_similarity_loss", "cosine"),
    "CPO": ("cpo_loss", "cpo"),
    "DPO": ("dpo_loss", "dpo"),
    "GRPO": ("grpo_loss", "grpo"),
    "JSD": ("jsd_loss", "jsd"),
    "KTO": ("kto_loss", "kto"),
    "ORPO": ("orpo_loss", "orpo"),
    "SimPO": ("simpo_loss", "simpo"),
}
CHUNKED_BASES = {
    "fused_linear_distillation": "LigerFusedLinearDistillationBase",
    "fused_linear_ppo": "LigerFusedLinearPPOBase",
    "fused_linear_preference": "LigerFusedLinearPreferenceBase",
    "fused_linear_unpaired_preference": "LigerFusedLinearUnpairedPreferenceBase",
}


@pytest.mark.parametrize("name", CHUNKED)
def test_chunked_losses_are_where_code_looks_for_them(name):
    module, function = CHUNKED[name]
    home = importlib.import_module(f"liger_jit.chunked_loss.{module}")
    package = importlib.import_module("liger_jit.chunked_loss")
    functions = importlib.import_module("liger_jit.chunked_loss.functional")
    loss = getattr(home, f"LigerFusedLinear{name}Loss")
    assert getattr(package, loss.__name__) is loss
    apply = getattr(home, f"LigerFusedLinear{name}Function").apply
    assert getattr(functions, f"liger_fused_linear_{function}") == apply


def test_chunked_losses_are_all_that_there_are():
    package = importlib.import_module("liger_jit.chunked_loss")
    assert set(package.__all__) == {f"LigerFusedLinear{name}Loss" for name in CHUNKED}
    for module, base in CHUNKED_BASES.items():
        assert hasattr(importlib.import_module(f"liger_jit.chunked_loss.{module}"), base)


def test_an_unknown_family_is_told_which_there_are():
    package = importlib.import_module("liger_jit.transformers")
    with pytest.raises(AttributeError, match="llama4_text.*liger_jit.patch"):
        _ = package.apply_liger_kernel_to_gpt3


def test_the_names_are_there_without_transformers():
    code = """
import sys
sys.modules["transformers"] = None
from liger_jit.transformers import apply_liger_kernel_to_qwen3_5_text, _apply_liger_kernel
try:
    apply_liger_kernel_to_qwen3_5_text()
except ModuleNotFoundError as error:
    assert error.name == "transformers", error
else:
    raise AssertionError("it patched what is not there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TOP)
def test_modules_are_offered_by_the_package_itself(name):
    package = importlib.import_module("liger_jit.transformers")
    assert hasattr(package, name)
    assert name in package.__all__


def test_what_a_loss_returns_has_the_four_fields():
    output = named("functional.CrossEntropyOutput")
    assert arguments(output) == "loss, z_loss=None, token_accuracy=None, predicted_tokens=None"


def test_an_unknown_name_is_an_attribute_error():
    package = importlib.import_module("liger_jit.transformers")
    with pytest.raises(AttributeError, match="LigerNothing"):
        _ = package.LigerNothing
