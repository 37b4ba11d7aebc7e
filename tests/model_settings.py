"""What a small configuration wants that sizes alone do not say, by the type of the configuration.

Beside `family_models.OWN`, whose models have tests of their own.
"""

# One of each kind, where the usual layers are derived from a pattern longer than two.
MAMBA_AND_ATTENTION = {"layer_types": ["linear_attention", "full_attention"]}
# Heads of latent attention: each has a key of its own, and rotates four of its numbers.
LATENT_HEADS = {"head_dim": 4, "num_key_value_heads": 4}
INDEXER = {
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 8,
}
# Each forward draws seeds anew for these.
REFORMER_DROPOUTS = (
    "hidden_dropout_prob",
    "local_attention_probs_dropout_prob",
    "lsh_attention_probs_dropout_prob",
)
# Tokenizers of pictures.
VQ = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "latent_channels": 32,
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 16,
}
SAM = {"downsample_channels": [16, 32], "output_channels": 16, "global_attn_indexes": [1]}
QWEN4_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}

ROTARY_OF_THREE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
}
# The base picture and one tile, of one size.
ONE_TILE = {"image_grid_pinpoints": [[16, 16]]}
# Four tokens for a picture of four by four patches.
FOUR_TOKENS = {"mm_tokens_per_image": 4}

SETTINGS = {
    **dict.fromkeys(("axk1", "dots1", "kimi_linear", "longcat_flash"), {"head_dim": 4}),
    **dict.fromkeys(("sarvam_mla", "youtu"), {"head_dim": 4}),
    **dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), LATENT_HEADS | INDEXER),
    "apertus1p5": {"image_token_offset": 40, "audio_token_offset": 48},
    "apertus1p5_vision_tokenizer": {**VQ, "codebook_size": 8},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16},
    # Its sparse attention draws its blocks at random, and is left for texts this short.
    "big_bird": {"attention_type": "original_full"},
    # Its cache asks for a number of layers that it does not have.
    "blip_2_qformer": {"encoder_hidden_size": 32},
    "blip-2": {"image_token_index": 100, "num_query_tokens": 4},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "use_cache": False,
        "encoder_config": {"hidden_size_global": 32},
        "decoder_config": {"hidden_size_global": 32},
    },
    "chameleon": {
        "vocabulary_map": {"<image>": 100, **{f"IMGIMG{'ABCD'[i]}Z": 91 + i for i in range(4)}},
        "vq_config": {**VQ, "num_embeddings": 4},
    },
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "cosmos3_edge_text": ROTARY_OF_THREE,
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {
        "mlp_layer_types": ["dense", "sparse"],
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "dory": {"n_input_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "deepseek_ocr2_sam_vision_model": SAM,
    "diffusion_gemma_text": {
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
    },
    "dots3_note_audio_encoder": {
        **dict.fromkeys(("adapter_input_size", "adapter_out_dim"), 32),
        "downsample_hidden_size": 8,
        "feature_size": 16,
    },
    "dots3_note_vision_encoder": {
        **dict.fromkeys(("adapter_in_dim", "adapter_out_dim"), 32),
        "mlp_layer_types": ["dense", "sparse"],
    },
    # The second layer slides, and has sizes of its own.
    "dots3_note_text": {
        **LATENT_HEADS,
        **INDEXER,
        "shared_experts_intermediate_size": 24,
        "per_layer_config": {
            "01": {
                **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
                **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
                **dict.fromkeys(("head_dim", "v_head_dim"), 8),
                **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim"), 4),
            }
        },
    },
    "emu3": {
        "vocabulary_map": {
            "<image>": 100,
            "<|extra_200|>": 95,
            **{f"<|visual token {i:06d}|>": 91 + i for i in range(4)},
        },
    },
    "emu3_vqgan": {
        **VQ,
        "codebook_size": 4,
        "temporal_downsample_factor": 2,
    },
    "ernie4_5_vl_moe_text": {**ROTARY_OF_THREE, "moe_intermediate_size": [24, 24]},
    "florence_vision": {
        "depths": [1, 1],
        "embed_dim": [16, 32],
        "num_heads": [2, 4],
        "num_groups": [2, 4],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "window_size": 2,
        "drop_path_rate": 0.0,
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    **dict.fromkeys(("gemma3", "t5gemma2_encoder"), FOUR_TOKENS),
    # The last two layers take the keys and values of the first two.
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 8,
    },
    # Its usual configuration has no tower.
    "gemma4": {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
            **dict.fromkeys(("num_hidden_layers", "pooling_kernel_size"), 2),
            "head_dim": 8,
            "patch_size": 4,
            "position_embedding_size": 16,
        }
    },
    **dict.fromkeys(("glm46v", "glmga"), {"text_config": ROTARY_OF_THREE}),
    **dict.fromkeys(("glm_ocr", "glm_ocr_text", "glm4v_text"), ROTARY_OF_THREE),
    "glm5_next": {"text_config": {"num_key_value_heads": 4, "qk_rope_head_dim": 0}},
    "glmasr_encoder": {"intermediate_size": 128},
    "granite4_vision": {
        **ONE_TILE,
        # Of queries, each head has 64.
        "vision_config": {"hidden_size": 64},
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
    },
    **dict.fromkeys(
        ("granite_speech_encoder", "granite_speech_plus_encoder"),
        {
            **dict.fromkeys(("hidden_dim", "input_dim"), 32),
            "context_size": 8,
            "dim_head": 8,
            "max_pos_emb": 16,
            "conv_kernel_size": 3,
        },
    ),
    "granite_speech": {"downsample_rate": 2, "window_size": 4},
    "granite_speech_plus": {"downsample_rate": 2, "window_size": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**MAMBA_AND_ATTENTION, "mamba_n_heads": 4, "mamba_d_head": 16},
    "hunyuan_vl_text": {**ROTARY_OF_THREE, "head_dim": 8, "num_key_value_heads": 2},
    "hy_v4_vl_text": {**ROTARY_OF_THREE, "qk_rope_head_dim": 8},
    "idefics": {"freeze_text_layers": False, "freeze_vision_layers": False},
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "inkling2_loop": {"vision_config": {"text_hidden_size": 32}},
    **dict.fromkeys(
        ("instructblip", "instructblipvideo"),
        {"image_token_index": 100, "video_token_index": 99, "num_query_tokens": 4},
    ),
    **dict.fromkeys(
        ("instructblip_qformer", "instructblipvideo_qformer"), {"encoder_hidden_size": 32}
    ),
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0},
    "janus_vqgan": {
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "latent_channels": 32,
        "num_embeddings": 16,
        "image_token_embed_dim": 32,
        "projection_dim": 32,
        "num_patches": 8,
    },
    "kimi_k25": {"projection_hidden_size": 32},
    **dict.fromkeys(("kosmos-2", "kosmos-2.5"), {"latent_query_num": 4}),
    "kyutai_speech_to_text": {
        "head_dim": 8,
        "num_key_value_heads": 4,
        "num_codebooks": 2,
        "codebook_vocab_size": 40,
        "audio_pad_token_id": 0,
        "audio_bos_token_id": 1,
    },
    # Four patches at once make one row of the tower's result.
    "llama4_vision_model": {"intermediate_size": 128},
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), ONE_TILE),
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 16},
    "molmo2": {"image_patch_id": 100},
    "molmo2_adapter": {"vision_feature_layer": [-1], "text_hidden_size": 32},
    "molmo2_vision": {"image_size": [16, 16], "num_position_embeddings": 16},
    "moss_transcribe_diarize": {"audio_config": {"max_source_positions": 16}},
    "mimi": {
        "num_filters": 4,
        "upsampling_ratios": [2, 2],
        "upsample_groups": 32,
        "num_quantizers": 8,
        **dict.fromkeys(("codebook_size", "codebook_dim"), 16),
        "vector_quantization_hidden_dimension": 16,
    },
    **dict.fromkeys(
        ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), {"image_token_id": 100, "insert_layer_id": 0}
    ),
    "mistral_large4": {"text_config": LATENT_HEADS},
    # Four patches of the tower's make one row of its result.
    **dict.fromkeys(("muse_glimmer", "muse_spark"), {"out_hidden_size": 128}),
    "muse_spark_audio": {
        "patch_sizes": [4, 2],
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "out_hidden_size": 32,
    },
    **dict.fromkeys(
        ("nemotron3_diarization", "nemotron3_5_transcribe_audio"),
        {"head_config": {"audio_hidden_size": 32}},
    ),
    "nemotron_h_omni": {
        "image_token_id": 100,
        "vision_hidden_size": 32,
        "vision_config": {"video_temporal_patch_size": 2},
    },
    "nemotron3_5_transcribe_word_timestamp": {"blank_token_id": 100},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "pp_formulanet_vision": {
        **dict.fromkeys(("decoder_hidden_size", "mlp_dim", "post_conv_in_channels"), 32),
        **dict.fromkeys(("post_conv_out_channels", "post_conv_mid_channels"), 32),
        "output_channels": 32,
        "global_attn_indexes": [1],
        # With the usual one no gradient comes through it.
        "initializer_range": 0.02,
    },
    "omniasr_audio": {
        **dict.fromkeys(("conv_dim",), [16, 32]),
        **dict.fromkeys(("conv_kernel", "conv_stride"), [8, 4]),
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "layerdrop": 0.0,
    },
    **dict.fromkeys(("paddleocr_vl_text", "qwen2_5_omni_text"), ROTARY_OF_THREE),
    "pix2struct_text_model": {"d_ff": 48, "d_kv": 8},
    "pix2struct_vision_model": {"patch_embed_hidden_size": 48, "d_ff": 48, "d_kv": 8},
    "qwen2_audio_encoder": {"max_source_positions": 16},
    "qwen3_asr_encoder": {"downsample_hidden_size": 8, "output_dim": 32},
    "qwen4_exp_text": QWEN4_INDEXER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, 6],
        "axial_pos_embds_dim": [16, 16],
        "hash_seed": 3,
        **dict.fromkeys(REFORMER_DROPOUTS, 0.0),
        "attention_head_size": 8,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "sam_vision_model": {"global_attn_indexes": [1]},
    "step3p5": {"sliding_window": 16},
    "udop": {"decoder_start_token_id": 0},
    "unlimited_ocr_sam_vision_model": SAM,
    **dict.fromkeys(
        ("vibevoice_acoustic_tokenizer_encoder", "vibevoice_semantic_tokenizer_encoder"),
        {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1], "hidden_size": 8},
    ),
    "vision-encoder-decoder": {
        "decoder_start_token_id": 1,
        "pad_token_id": 0,
        "decoder": {"is_decoder": True, "add_cross_attention": True},
    },
    "voxtral": {"audio_token_id": 97},
    "voxtral_encoder": {"max_source_positions": 16, "intermediate_size": 128},
    "vipllava": {"vision_feature_layers": [-2, -1]},
    "wavtokenizer_encoder": {"codebook_dim": 32, "codebook_size": 8},
    # Widths of queries and values are rounded up to 64 in one place and not in another.
    "xlstm": {"hidden_size": 128, "num_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layer_types": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    # What it derives from its layers it takes from the older name.
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
