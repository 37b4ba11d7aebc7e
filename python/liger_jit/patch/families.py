"""The model types that Liger Kernel has patch functions for: data, a row for each function.

Flags and defaults are those of Liger 0.8.5, in the order of its signatures. All else about a
family, its functions, their signatures and what they say, is made from its row.
"""

from dataclasses import dataclass

LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": True}
NORMS = {"rope": True, **LOSSES, "rms_norm": True}
MODEL = {"model": None}
SWIGLU = {**NORMS, "swiglu": True, **MODEL}
GEGLU = {**NORMS, "geglu": True, **MODEL}
TOWER = {"rope": True, **LOSSES, "layer_norm": True, "rms_norm": True}
GEGLU_AND_TOWER = {**TOWER, "geglu": True, **MODEL}
SWIGLU_AND_TOWER = {**TOWER, "swiglu": True, **MODEL}
ANY_TEXT = {**LOSSES, "rms_norm": True, "layer_norm": True, **MODEL}
NO_ROPE, NO_SWIGLU, NO_TOWER = {"rope": False}, {"swiglu": False}, {"layer_norm": False}


@dataclass(frozen=True)
class Family:
    """A model type of transformers with a patch function of its own.

    bases: names of its PreTrainedModel classes without that ending, separated by spaces.
    parameters: of the function, with their defaults: flags and `model`.
    any_flag: whether the function takes all other flags as well. They say what to do with parts
        that may be of any other family, or that Liger's function leaves alone.
    folder: of its file in transformers, if that is not the model type's.
    """

    model_type: str
    bases: str
    parameters: dict[str, bool | None]
    any_flag: bool = False
    folder: str = ""

    @property
    def module(self) -> str:
        folder = self.folder or self.model_type
        return f"transformers.models.{folder}.modeling_{folder}"

    @property
    def base_names(self) -> list[str]:
        return [f"{name}PreTrainedModel" for name in self.bases.split()]

    @property
    def flags(self) -> dict[str, bool]:
        return {name: value for name, value in self.parameters.items() if name != "model"}


FAMILIES = (
    Family("deepseek_v2", "DeepseekV2", SWIGLU | NO_ROPE),
    Family("deepseek_v3", "DeepseekV3", SWIGLU | NO_ROPE),
    Family("deepseek_v4", "DeepseekV4", SWIGLU | NO_ROPE | NO_SWIGLU),
    Family("exaone4", "Exaone4", SWIGLU),
    Family("falcon_h1", "FalconH1", SWIGLU),
    Family("gemma", "Gemma", GEGLU),
    Family("gemma2", "Gemma2", GEGLU),
    Family("gemma3", "Gemma3", GEGLU_AND_TOWER),
    Family("gemma3_text", "Gemma3", GEGLU, folder="gemma3"),
    Family("gemma4", "Gemma4", GEGLU_AND_TOWER | NO_ROPE | NO_TOWER),
    Family("gemma4_text", "Gemma4", GEGLU | NO_ROPE, folder="gemma4"),
    Family("glm4", "Glm4", SWIGLU | NO_ROPE),
    Family("glm4v", "Glm4v", SWIGLU | NO_ROPE),
    Family("glm4v_moe", "Glm4vMoe", SWIGLU | NO_ROPE),
    Family("gpt_oss", "GptOss", SWIGLU | NO_SWIGLU),
    # Its head multiplies the logits, which Liger's fused loss refuses.
    Family(
        "granite",
        "Granite",
        SWIGLU | {"cross_entropy": True, "fused_linear_cross_entropy": False},
    ),
    Family("hunyuan_v1_dense", "HunYuanDenseV1", SWIGLU),
    Family("hunyuan_v1_moe", "HunYuanMoEV1", SWIGLU),
    Family("internvl", "InternVL InternVLVision", ANY_TEXT, any_flag=True),
    Family("llama", "Llama", SWIGLU),
    Family("llama4", "Llama4", SWIGLU | {"layer_norm": True}),
    Family("llava", "Llava", LOSSES | MODEL, any_flag=True),
    Family("ministral", "Ministral", SWIGLU),
    Family("mistral", "Mistral", SWIGLU),
    Family("mixtral", "Mixtral", SWIGLU),
    Family("mllama", "Mllama", SWIGLU_AND_TOWER),
    Family("muse_glimmer", "MuseGlimmer", SWIGLU_AND_TOWER),
    Family("nemotron", "Nemotron", {"relu_squared": True} | LOSSES | MODEL, any_flag=True),
    Family("olmo2", "Olmo2", SWIGLU),
    Family("olmo3", "Olmo3", SWIGLU),
    Family("paligemma", "PaliGemma", GEGLU_AND_TOWER),
    Family("phi3", "Phi3", SWIGLU),
    Family("pixtral", "Pixtral", {"rope": True, "rms_norm": True, "swiglu": True} | MODEL),
    Family("qwen2", "Qwen2", SWIGLU),
    Family("qwen2_5_vl", "Qwen2_5_VL", SWIGLU),
    Family("qwen2_vl", "Qwen2VL", NORMS | {"layer_norm": True, "swiglu": True} | MODEL),
    Family("qwen3", "Qwen3", SWIGLU),
    Family("qwen3_5", "Qwen3_5", SWIGLU | NO_ROPE),
    Family("qwen3_5_moe", "Qwen3_5Moe", SWIGLU | NO_ROPE),
    Family("qwen3_moe", "Qwen3Moe", SWIGLU),
    Family("qwen3_next", "Qwen3Next", SWIGLU | NO_ROPE),
    Family("qwen3_vl", "Qwen3VL", SWIGLU | NO_SWIGLU),
    Family("qwen3_vl_moe", "Qwen3VLMoe", SWIGLU),
    Family("smollm3", "SmolLM3", SWIGLU),
    Family("smolvlm", "SmolVLM", ANY_TEXT, any_flag=True),
)

# Types of a model's text part, for which the whole model's function stands.
TEXT_PARTS = {
    "llama4_text": "llama4",
    "mllama_text_model": "mllama",
    "qwen2_5_vl_text": "qwen2_5_vl",
    "qwen2_vl_text": "qwen2_vl",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "qwen3_5",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "qwen3_vl_text": "qwen3_vl",
}

FAMILY_OF_TYPE = {family.model_type: family for family in FAMILIES}
FAMILY_OF_TYPE |= {part: FAMILY_OF_TYPE[whole] for part, whole in TEXT_PARTS.items()}


def covers(family: Family, model_type: str) -> bool:
    """Whether a model of that type, built from the family's classes, is one of the family.

    Towers that have no row of their own belong to the whole model's family.
    """
    if model_type in FAMILY_OF_TYPE:
        return FAMILY_OF_TYPE[model_type] is family
    return not family.folder
