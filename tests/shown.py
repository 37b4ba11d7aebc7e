"""A picture or a sound in the form in which each type of model takes it.

A form gives (inputs by name, the token that stands for them in the text, how often it does): as
often as the model's own features have rows. Without a row in `FORMS` the signature of the model's
forward tells the form.
"""

import copy
import inspect
from functools import partial

import torch

VOCABULARY, IMAGE, VIDEO, VISION_START, AUDIO, WORDS = 101, 100, 99, 98, 97, 90
ROWS, TOKENS = 2, 24
SIDE, PATCH = 16, 4
PATCHES = SIDE // PATCH
GRID = torch.tensor([[1, PATCHES, PATCHES]])
SIZE = torch.tensor([[SIDE, SIDE]])
FRAMES, BINS = 32, 128


def shown_to(model):
    form = FORMS.get(model.config.model_type)
    if form is None:
        takes = inspect.signature(model.forward).parameters
        form = next((form for name, form in FORMS_BY_INPUT.items() if name in takes), nothing)
    return form(model)


def nothing(model):
    return {}, IMAGE, 0


def without_tokens(**make):
    """Beside the text, not in it: each input from its sizes."""
    return lambda model: ({name: one(model) for name, one in make.items()}, IMAGE, 0)


def seen(model, **shown):
    return shown, IMAGE, tokens_of(model, "get_image_features", shown)


def heard(model, **shown):
    return shown, AUDIO, tokens_of(model, "get_audio_features", shown)


def tokens_of(model, features_of, shown):
    """How many rows of the text's width the model makes of what is shown; a copy of it is asked,
    for the model's own first step may be one that a test waits for."""
    model = copy.deepcopy(model)
    make = getattr(getattr(model, "model", None), features_of, None) or getattr(model, features_of)
    takes = inspect.signature(make).parameters
    with torch.no_grad():
        made = make(**{name: value for name, value in shown.items() if name in takes})
    features = getattr(made, "pooler_output", None)
    features = getattr(made, "last_hidden_state", made) if features is None else features
    return numbers_in(features) // model.get_input_embeddings().weight.shape[-1]


def numbers_in(features):
    if isinstance(features, torch.Tensor):
        return features.numel()
    return sum(numbers_in(one) for one in features)


def pixels(*of):
    return torch.randn(*of, 3, SIDE, SIDE)


def whole(model):
    """A picture without its size."""
    return seen(model, pixel_values=pixels(1))


def sized(model):
    return seen(model, pixel_values=pixels(1), image_sizes=SIZE)


def in_a_list(model):
    """Each row of the text has a list of its pictures."""
    mask = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    return seen(model, pixel_values=pixels(1, 1), pixel_attention_mask=mask)


def in_a_list_of_tiles(model):
    mask = torch.ones(1, 1, dtype=torch.bool)
    return seen(model, pixel_values=pixels(1, 1), pixel_attention_mask=mask)


def tiled(model):
    """A picture beside one tile of it."""
    return seen(model, pixel_values=pixels(1, 2), image_sizes=SIZE)


def tiled_for_layers(model):
    """As above, and each of some layers of the text is given features of its own."""
    shown = {"pixel_values": pixels(1, 2), "image_sizes": SIZE}
    with torch.no_grad():
        made = copy.deepcopy(model).model.get_image_features(**shown)
    features = made.deepstack_features[0][1]
    return shown, IMAGE, numbers_in(features) // features[0].shape[-1]


def in_two_resolutions(model):
    return seen(model, pixel_values=pixels(1), high_res_pixel_values=pixels(1))


def patches(model):
    """Each patch is a row: of all its channels, at each of the times that make one patch."""
    vision = model.config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", 3)
    times = getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", 1)
    return flat_patches(model, channels * times)


def flat_patches(model, channels):
    values = torch.randn(PATCHES**2, channels * PATCH**2)
    return seen(model, pixel_values=values, image_grid_thw=GRID)


def square_patches(model):
    values = torch.randn(PATCHES**2, 3, PATCH, PATCH)
    return seen(model, pixel_values=values, image_grid_thw=GRID)


def patches_of_pixels(model):
    """Channels come last, and the grid is of what is merged."""
    values = torch.randn(PATCHES**2 // 4, 2 * PATCH, 2 * PATCH, 3)
    return seen(model, pixel_values=values, image_grid_thw=torch.tensor([[1, 2, 2]]))


def patches_of_two_sides(model):
    values = torch.randn(PATCHES**2, 3 * PATCH**2)
    return seen(model, pixel_values=values, image_grid_hw=GRID[:, 1:])


def placed_patches(model):
    """Beside each the place where it is."""
    places = torch.cartesian_prod(*[torch.arange(PATCHES)] * 2)[None]
    values = torch.rand(1, PATCHES**2, 3 * PATCH**2)
    return seen(model, pixel_values=values, image_position_ids=places)


def merged_patches(model):
    values = torch.randn(PATCHES**2, 3 * PATCH**2)
    return seen(
        model, pixel_values=values, image_grid_thw=GRID, image_merge_sizes=torch.tensor([1])
    )


def padded_patches(model):
    mask = torch.ones(1, PATCHES**2, dtype=torch.long)
    values = torch.randn(1, PATCHES**2, 3 * PATCH**2)
    return seen(model, pixel_values=values, spatial_shapes=GRID[:, 1:], pixel_attention_mask=mask)


def patches_in_a_row(model):
    """A picture that is as high as one patch."""
    values = torch.randn(1, 3, PATCH, PATCHES * SIDE)
    return seen(model, pixel_values=values, target_sizes=GRID[:, 1:])


def pooled_patches(model):
    """Four at once make a token."""
    squares = torch.arange(PATCHES**2).view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4)
    return seen(
        model,
        pixel_values=torch.randn(1, PATCHES**2, 3 * PATCH**2),
        image_token_pooling=squares,
        image_grids=torch.tensor([[2, 2, 0, 0]]),
        image_num_crops=torch.tensor([1]),
    )


def of_queries(model, **more):
    """A fixed number of tokens, whatever is seen."""
    return {"pixel_values": pixels(1), **more}, IMAGE, model.config.num_query_tokens


def of_instructed_queries(model, frames=None):
    instruction = torch.randint(3, WORDS, (1, 6))
    mask = torch.ones_like(instruction)
    more = {"qformer_input_ids": instruction, "qformer_attention_mask": mask}
    shown, token, count = of_queries(model, **more)
    if frames:
        shown["pixel_values"] = pixels(1, frames)
    return shown, VIDEO if frames else token, count * (frames or 1)


def at_places(model):
    """A mask of the text tells where, in each row."""
    count = model.config.latent_query_num
    places = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    places[:, 2 : 2 + count] = 1
    return {"pixel_values": pixels(ROWS), "image_embeds_position_mask": places}, IMAGE, 0


def numbered_patches(model):
    """Each begins with its row and its column."""
    places = torch.cartesian_prod(*[torch.arange(PATCHES, dtype=torch.float32)] * 2)
    width = model.config.vision_config.patch_embed_hidden_size
    values = torch.cat((places, torch.randn(PATCHES**2, width)), dim=1)
    return values.expand(ROWS, -1, -1).contiguous()


def numbered_patches_at_places(model):
    shown, token, count = at_places(model)
    shown |= {"flattened_patches": numbered_patches(model)}
    shown |= dict.fromkeys(("width", "height"), torch.full((ROWS, 1), PATCHES))
    return shown, token, count


def beside_actions(model):
    """Of a robot, which are what is learned; each row of the text begins with its picture."""
    ids = torch.randint(3, WORDS, (ROWS, TOKENS))
    ids[:, : PATCHES**2] = IMAGE
    config = model.config
    size = ROWS, config.chunk_size, config.max_action_dim
    shown = {
        "input_ids": ids,
        "state": torch.randn(ROWS, config.max_state_dim),
        "noise": torch.randn(size),
        "timestep": torch.rand(ROWS),
        "actions": torch.randn(size),
        "pixel_values": pixels(ROWS, 1),
        "pixel_attention_mask": torch.ones(ROWS, 1, dtype=torch.bool),
    }
    return shown, IMAGE, 0


def sound_of_samples(model):
    """Beside its frames, how many samples it had."""
    mask = torch.ones(1, FRAMES, dtype=torch.long)
    samples = torch.ones(1, FRAMES * 160, dtype=torch.long)
    return heard(
        model,
        input_features=spectrum(model, 1, FRAMES),
        input_features_mask=mask,
        padding_mask=samples,
    )


def sound(model, frames=FRAMES):
    mask = torch.ones(1, frames, dtype=torch.long)
    return heard(model, input_features=spectrum(model, 1, frames), input_features_mask=mask)


def spectrum(model, rows, frames):
    return torch.randn(rows, model.config.audio_config.num_mel_bins, frames)


def sound_in_fourths(model):
    """A token for four frames."""
    mask = torch.ones(1, FRAMES, dtype=torch.long)
    shown = {"input_features": spectrum(model, 1, FRAMES), "feature_attention_mask": mask}
    return shown, AUDIO, FRAMES // 4


def in_codebooks(model):
    """Each row of the text is several, of which each has labels."""
    books = model.decoder.num_codebooks if hasattr(model, "decoder") else model.num_codebooks
    ids = torch.randint(3, WORDS, (ROWS, TOKENS, books))
    return {"input_ids": ids.mT.reshape(-1, TOKENS), "labels": ids}, IMAGE, 0


def frames_of_sound(model, width, count):
    """Frames come before their numbers; `count` of them are told in the mask."""
    return heard(
        model,
        input_features=torch.randn(1, FRAMES, width),
        input_features_mask=torch.ones(1, count, dtype=torch.bool),
    )


FORMS_BY_INPUT = {"image_grid_thw": patches, "pixel_values": whole, "input_features": sound}
FORMS = {
    **dict.fromkeys(("apertus1p5", "aria", "aya_vision", "cohere2_vision"), sized),
    **dict.fromkeys(("emu3", "lighton_ocr", "mistral3", "mistral_large4"), sized),
    "granite4_vision": tiled_for_layers,
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), tiled),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), in_a_list),
    **dict.fromkeys(("kimi_k25", "paddleocr_vl"), square_patches),
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), patches_in_a_row),
    **dict.fromkeys(("inkling2", "inkling2_loop"), patches_of_pixels),
    **dict.fromkeys(
        ("blip", "pp_formulanet", "vision-encoder-decoder"),
        without_tokens(pixel_values=lambda model: pixels(ROWS)),
    ),
    "blip-2": of_queries,
    "deepseek_vl_hybrid": in_two_resolutions,
    "evolla": without_tokens(
        protein_input_ids=lambda model: torch.randint(3, WORDS, (ROWS, 9)),
        protein_attention_mask=lambda model: torch.ones(ROWS, 9, dtype=torch.long),
    ),
    "fun_asr_nano": lambda model: frames_of_sound(model, 560, FRAMES),
    "fuyu": lambda model: seen(model, pixel_values=torch.randn(1, PATCHES**2, 3 * PATCH**2)),
    "gemma4": placed_patches,
    "gemma4_unified": nothing,  # its usual configuration has no tower
    "git": without_tokens(pixel_values=lambda model: pixels(ROWS)),
    **dict.fromkeys(
        ("granite_speech", "granite_speech_plus"),
        lambda model: frames_of_sound(model, model.config.encoder_config.input_dim, 16),
    ),
    "granite_docling": in_a_list_of_tiles,
    "idefics": without_tokens(
        pixel_values=lambda model: pixels(ROWS, 1),
        image_attention_mask=lambda model: torch.ones(ROWS, TOKENS, 1, dtype=torch.long),
    ),
    "instructblip": of_instructed_queries,
    "instructblipvideo": partial(of_instructed_queries, frames=2),
    "kosmos-2": at_places,
    "kosmos-2.5": numbered_patches_at_places,
    "kyutai_speech_to_text": without_tokens(
        input_ids=lambda model: torch.randint(3, 40, (ROWS, TOKENS, 3))
    ),
    "lfm2_vl": padded_patches,
    "llama4": lambda model: seen(
        model, pixel_values=pixels(1), vision_feature_select_strategy="default"
    ),
    "mllama": without_tokens(
        pixel_values=lambda model: pixels(ROWS, 1, 4),
        aspect_ratio_ids=lambda model: torch.ones(ROWS, 1, dtype=torch.long),
        aspect_ratio_mask=lambda model: torch.ones(ROWS, 1, 4, dtype=torch.long),
        cross_attention_mask=lambda model: torch.ones(ROWS, TOKENS, 1, 4, dtype=torch.long),
    ),
    "moss_transcribe_diarize": sound_of_samples,
    "omniasr": lambda model: heard(model, input_values=torch.randn(1, 1, 512)),
    "pi0": beside_actions,
    "molmo2": pooled_patches,
    "nemo_speechlm": lambda model: frames_of_sound(model, BINS, FRAMES),
    **dict.fromkeys(("musicgen_decoder", "musicgen_melody_decoder"), in_codebooks),
    "nemotron_h_omni": patches_of_two_sides,
    "pix2struct": without_tokens(flattened_patches=numbered_patches),
    "pixtral": without_tokens(pixel_values=lambda model: pixels(1), image_sizes=lambda model: SIZE),
    "qwen2_audio": sound_in_fourths,
    # Which it takes by the hundred.
    "qwen3_asr": partial(sound, frames=100),
    "udop": without_tokens(
        bbox=lambda model: torch.rand(ROWS, TOKENS, 4).sort(-1).values,
        pixel_values=lambda model: pixels(ROWS),
    ),
    "vibevoice_asr": lambda model: heard(model, input_values=torch.randn(1, 1, 64)),
    "video_llava": lambda model: seen(model, pixel_values_images=pixels(1)),
    "video_llama_3": merged_patches,
    # One for each token of the text.
    "voxtral_realtime": without_tokens(
        input_features=lambda model: spectrum(model, ROWS, 8 * TOKENS)
    ),
}
# Models with a tower that are given text alone, and those whose tower has no gradient: it gives
# whole numbers, or is frozen.
TEXT_ALONE = {"gemma4_unified", "phi4_multimodal"}
WITHOUT_GRADIENT = {"apertus1p5", "chameleon", "emu3", "kyutai_speech_to_text", "vibevoice_asr"}
TOWERS = ("vision", "visual", "vit", "image", "audio", "protein", "encoder.", "patch_embed")


def is_of_tower(name):
    return any(word in name for word in TOWERS)


def is_seen(kind, model, gradients):
    """Whether its tower is trained with its text, if it has one that can be."""
    if kind in TEXT_ALONE | WITHOUT_GRADIENT:
        return True
    tower = [name for name, _ in model.named_parameters() if is_of_tower(name)]
    return not tower or any(gradients[name].any() for name in tower if name in gradients)
