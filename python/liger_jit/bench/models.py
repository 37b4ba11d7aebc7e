"""Models whose training step is timed: built from these settings with random weights."""

VOCABULARY_OF_QWEN3 = 151936
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
TINY = {
    **LLAMA_8B,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
LLAMA_1B = {
    **LLAMA_8B,
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}
MODELS = {
    # Llama 3.2 1B, and with one sequence that needs gradient checkpointing
    "llama-1b": LLAMA_1B,
    "llama-1b-32k": LLAMA_1B,
    # OLMo 2 1B
    "olmo2-1b": {
        "model_type": "olmo2",
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 100352,
    },
    # Qwen3 30B-A3B, four of its layers
    "qwen3-moe-4l": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": VOCABULARY_OF_QWEN3,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": VOCABULARY_OF_QWEN3,
        "tie_word_embeddings": True,
    },
    # Llama 3 8B, which fits one card as a teacher
    "llama-8b": {**LLAMA_8B, "num_hidden_layers": 32},
    # of which four layers fit it with their optimizer
    "llama-8b-4l": {**LLAMA_8B, "num_hidden_layers": 4},
    # for a machine without a GPU, and a teacher of another width
    "tiny": TINY,
    "tiny-wide": {**TINY, "hidden_size": 128},
}

# Of models whose step has another batch than the rest.
BATCHES = {"llama-1b-32k": {"batch": 1, "tokens": 32768, "checkpointing": True}}
