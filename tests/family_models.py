"""A random model of a few thousand parameters for every model type that has a patch function."""

import torch
import transformers
from model_inputs import inputs_of
from model_settings import SETTINGS
from shown import AUDIO, IMAGE, PATCH, SIDE, VIDEO, VISION_START, VOCABULARY
from torch import nn
from transformers.models.auto import modeling_auto as auto

SMALL = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
    "sliding_window": 16,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
}
COUNTS_OF_LAYERS = {"num_hidden_layers", "n_layer", "num_layers"}
# What only towers and models around them have.
TOWER = {
    **dict.fromkeys(("embed_dim", "out_hidden_size", "projection_dim", "projector_input_dim"), 32),
    "projector_hidden_size": 32,
    **dict.fromkeys(("vision_output_dim", "projector_output_dim"), 32),
    **dict.fromkeys(("depth", "num_global_layers"), 2),
    **dict.fromkeys(("image_token_id", "image_token_index"), IMAGE),
    **dict.fromkeys(("audio_token_id", "audio_token_index"), AUDIO),
    **dict.fromkeys(("pos_emb_height", "pos_emb_width"), 4),
    "attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "num_position_embeddings": 16,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
}
ROTARY_OF_THREE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
}
DELTA_NET = {
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
}
GEMMA4 = {
    "per_layer_config": {"01": {"head_dim": 16}},
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
HEADS_OF_8 = {"head_dim": 8}
QWEN_VL = {"text_config": ROTARY_OF_THREE, "vision_config": {"fullatt_block_indexes": [1]}}
QWEN3_VL = {
    "text_config": ROTARY_OF_THREE,
    "vision_config": {"deepstack_visual_indexes": [0]},
}
# Where the settings above make no model: by the model type, and by the type of its text part.
OWN = {
    "deepseek_v2": {"num_experts_per_tok": 2, "head_dim": 4},
    "deepseek_v3": {"head_dim": 4},
    "falcon_h1": {
        "layer_types": None,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_state": 8,
        # What no fused loss may miss.
        "lm_head_multiplier": 0.5,
    },
    "glm4v": {"text_config": ROTARY_OF_THREE},
    "glm4v_moe": {
        "text_config": {
            "rope_parameters": {**ROTARY_OF_THREE["rope_parameters"], "partial_rotary_factor": 1.0}
        }
    },
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "granite": {"logits_scaling": 2.0},
    "hunyuan_v1_dense": HEADS_OF_8,
    "hunyuan_v1_moe": HEADS_OF_8,
    "ministral": HEADS_OF_8,
    "nemotron": {"num_key_value_heads": 2, **HEADS_OF_8},
    "mllama": {
        "text_config": {"cross_attention_layers": [1]},
        "vision_config": {"intermediate_layers_indices": [0], "vision_output_dim": 64},
    },
    "mllama_text_model": {"cross_attention_layers": [1]},
    "qwen2_vl": QWEN_VL,
    "qwen2_vl_text": ROTARY_OF_THREE,
    "qwen2_5_vl": QWEN_VL,
    "qwen2_5_vl_text": ROTARY_OF_THREE,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_text": ROTARY_OF_THREE,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_vl_moe_text": ROTARY_OF_THREE,
}
CLASSES = (
    {"mllama_text_model": "MllamaForCausalLM", "pixtral": "PixtralVisionModel"},
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    auto.MODEL_MAPPING_NAMES,
)


def class_of(model_type):
    """The one that is trained on text, or the bare one of a part that is not."""
    name = next(names[model_type] for names in CLASSES if names.get(model_type))
    return getattr(transformers, name)


def settings_of(config_class):
    """Beside sizes, for a configuration of its own or a part of another."""
    kind = config_class.model_type
    return OWN.get(kind, {}) | SETTINGS.get(kind, {})


def small_config(config_class, own=None):
    """The class's own settings with the widths and counts above in place of its numbers."""
    usual, own = config_class(), dict(own or {})
    numbers = {name for name, value in usual.to_dict().items() if type(value) in (int, list)}
    numbers.add("pad_token_id")  # which some releases only give where it is set
    settings = {name: value for name, value in (SMALL | TOWER).items() if name in numbers}
    settings |= layers_of(usual)
    for name in usual.sub_configs:
        part = getattr(usual, name, None)
        if part is not None:
            of_part = settings_of(type(part)) | own.pop(name, {})
            settings[name] = small_config(type(part), of_part).to_dict()
    settings |= own
    return config_class(**{name: value for name, value in settings.items() if value is not None})


def layers_of(usual):
    """One layer of each kind that the model has, and two at least."""
    own = getattr(type(usual), "layer_types", None)
    if isinstance(own, property) and own.fset is None:
        return {}
    kinds = list(dict.fromkeys(getattr(usual, "layer_types", None) or ()))
    kinds = (kinds * 2)[: max(len(kinds), 2)]
    counts = dict.fromkeys(COUNTS_OF_LAYERS & vars(usual).keys(), len(kinds))
    return {"layer_types": kinds, **counts} if kinds else {}


def tiny(model_type):
    """A model without dropout, its norms and biases far from their first values; its inputs."""
    torch.manual_seed(1)
    model_class = class_of(model_type)
    config = small_config(model_class.config_class, settings_of(model_class.config_class))
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class(config).parameters())
    assert size < 5_000_000, f"{size} parameters"
    model = model_class(config).float().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, inputs_of(model)


def step_of(model, inputs):
    """The loss and its gradients; of a model without a loss, one of all that it returns."""
    torch.manual_seed(9)
    model.zero_grad(set_to_none=True)
    output = model(**inputs)
    loss = output.loss if "labels" in inputs else probe_loss(output.last_hidden_state)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradients


def fails_by_itself(model, inputs):
    """Whether it is a whole Llama 4 of a transformers (5.0, 5.24) that cannot take a picture, or
    make its output."""
    if model.config.model_type != "llama4":
        return False
    try:
        model(**inputs)
    except AttributeError as error:
        return any(name in str(error) for name in ("pooler_output", "image_outputs"))
    return False


def probe_loss(states):
    generator = torch.Generator().manual_seed(5)
    return (states * torch.randn(states.shape, generator=generator)).mean()
