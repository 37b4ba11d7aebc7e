"""Names, argument order and defaults are those that code written for Liger Kernel relies on.

The table was read from the public modules of Liger Kernel 0.8.5; what is imported there as
liger_kernel.transformers.X must be importable as liger_jit.transformers.X.
"""

import importlib
import inspect

import pytest

_NORM = "eps=1e-06, offset=0.0, casting_mode='llama', init_fn='ones', in_place="
_GEMMA = "eps=1e-06, offset=1.0, casting_mode='gemma', init_fn='zeros', in_place="
_EXTRAS = "return_token_accuracy=False, return_predicted_tokens=False"
_LOSS = (
    "ignore_index=-100, lse_square_scale=0.0, label_smoothing=0.0, reduction='mean', softcap=None"
)
_FUSED = f"return_z_loss=False, accum_dtype=None, use_token_scaling=False, {_EXTRAS}"

FUNCTIONS = {
    "functional.liger_cross_entropy": "input, target, weight=None, size_average=None, "
    "ignore_index=-100, reduce=None, reduction='mean', label_smoothing=0.0, lse_square_scale=0.0, "
    f"softcap=None, return_z_loss=False, {_EXTRAS}",
    "functional.liger_fused_linear_cross_entropy": "input, weight, target, bias=None, "
    f"ce_weight=None, {_LOSS}, {_FUSED}, chunk_mem_const=1",
    "functional.liger_geglu": "a, b",
    "functional.liger_swiglu": "a, b",
    "functional.liger_layer_norm": "X, W, B, eps",
    "functional.liger_rms_norm": "X, W, eps, offset=0.0, casting_mode='llama', in_place=True",
    "functional.liger_fused_add_rms_norm": "X, R, W, eps, offset=0.0, casting_mode='llama', "
    "in_place=True",
    "functional.liger_rope": "q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None",
    "rope.liger_rotary_pos_emb": "q, k, cos, sin, position_ids=None, unsqueeze_dim=1, "
    "rotary_dim=None",
}

# Arguments of the constructor, then of forward.
MODULES = {
    "cross_entropy.LigerCrossEntropyLoss": (
        f"weight=None, {_LOSS}, return_z_loss=False, {_EXTRAS}",
        "_input, target",
    ),
    "fused_linear_cross_entropy.LigerFusedLinearCrossEntropyLoss": (
        f"ce_weight=None, {_LOSS}, {_FUSED}",
        "lin_weight, _input, target, bias=None",
    ),
    "fused_add_rms_norm.LigerFusedAddRMSNorm": (
        f"hidden_size, {_NORM}False",
        "hidden_states, residual",
    ),
    "geglu.LigerGEGLUMLP": ("config", "x"),
    "layer_norm.LigerLayerNorm": (
        "hidden_size, eps=1e-06, bias=False, init_fn='ones', impl=None, mode=None, backend=None",
        "hidden_states",
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
    "rms_norm.LigerRMSNormForOlmo2": (f"hidden_size, {_NORM}False, row_mode=None", "hidden_states"),
    "rms_norm.LigerRMSNormForGlm4": (f"hidden_size, {_NORM}False, row_mode=None", "hidden_states"),
    "rms_norm.LigerRMSNormForQwen3Next": (
        f"hidden_size, {_GEMMA}False, row_mode=None",
        "hidden_states",
    ),
    "swiglu.LigerSwiGLUMLP": ("config, intermediate_size=None", "x"),
    "swiglu.LigerBlockSparseTop2MLP": ("config", "x"),
    "swiglu.LigerPhi3SwiGLUMLP": ("config", "x"),
    "swiglu.LigerQwen3MoeSwiGLUMLP": ("config, intermediate_size=None", "x"),
}

# Importable from liger_jit.transformers itself.
TOP = [*(name.split(".")[1] for name in MODULES), "liger_rotary_pos_emb", "CrossEntropyOutput"]


def named(path):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"liger_jit.transformers.{module}"), name)


def arguments(function):
    """The signature as text, without annotations and self."""
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
    return ", ".join(str(parameter) for parameter in plain)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_take_the_arguments_of_the_table(path):
    assert arguments(named(path)) == FUNCTIONS[path]


@pytest.mark.parametrize("path", MODULES)
def test_modules_take_the_arguments_of_the_table(path):
    constructor, forward = MODULES[path]
    assert arguments(named(path).__init__) == constructor
    assert arguments(named(path).forward) == forward


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
