"""LoRA weights as values, and where they sit in a transformers causal language model."""

# The parent of each linear layer inside a decoder layer, the same in Gemma, Mistral, Qwen, Llama.
MODULE_PARENTS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
