"""Tiny random models, real in every other respect, for tests that need no fixtures."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from generator import checkpoint
from generator.config import DocGeneratorConfig, TextGeneratorConfig
from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.prompt import PromptFormat
from generator.text_to_lora import TextHypernetworkConfig, TextToLora

LAYERS, HIDDEN, INTERMEDIATE = 3, 16, 24
VOCABULARY = 256 + 4
DOWN_PROJ = {"down_proj": (INTERMEDIATE, HIDDEN)}
THREE_MODULES = {"q_proj": (HIDDEN, 16), "o_proj": (16, HIDDEN), **DOWN_PROJ}

SYSTEM, USER, END, ASSISTANT = (256 + index for index in range(4))
PROMPT = PromptFormat(context_prefix_ids=(SYSTEM, END, USER), context_suffix_ids=(END, ASSISTANT))
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def base_model(layers: int = LAYERS) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(initializer_range=0.2, tie_word_embeddings=True, **_sizes(layers))
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


def gemma_model() -> PreTrainedModel:
    """Scaled embeddings, soft-capped attention, sliding windows."""
    torch.manual_seed(0)
    config = Gemma2Config(sliding_window=8, query_pre_attn_scalar=8, **_sizes(LAYERS))
    config._attn_implementation = "eager"
    return Gemma2ForCausalLM(config).eval().requires_grad_(False)


def _sizes(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }


def hypernetwork_config(**changes: Any) -> HypernetworkConfig:
    settings: dict[str, Any] = {
        "modules": DOWN_PROJ,
        "layers": LAYERS,
        "feature_size": HIDDEN,
        "rank": 2,
        "latent_size": 12,
        "latents": 5,
        "blocks": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp_ratio": 2,
    }
    return HypernetworkConfig(**(settings | changes))


def trained(config: HypernetworkConfig) -> DocToLora:
    """A hypernetwork all of whose parameters matter, as after training."""
    torch.manual_seed(0)
    hypernetwork = DocToLora(config).eval().requires_grad_(False)
    for name, parameter in hypernetwork.named_parameters():
        if name.startswith(("scaler_", "bias_")) or name.endswith("norm.weight"):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return hypernetwork


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the four special tokens of the chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<system>", "<user>", "<end>", "<assistant>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<end>", chat_template=CHAT_TEMPLATE
    )


def generator_folder(root: Path, **changes: Any) -> Path:
    """A native generator folder ``doc`` beside its base model ``base``."""
    base_model().save_pretrained(root / "base")
    tokenizer().save_pretrained(root / "base")
    config = DocGeneratorConfig(
        name="tiny",
        base_model="../base",
        prompt=PROMPT,
        max_chunk_tokens=24,
        max_chunks=5,
        hypernetwork=hypernetwork_config(**changes),
    )
    checkpoint.save(root / "doc", config, trained(config.hypernetwork))
    return root / "doc"


def text_hypernetwork_config(**changes: Any) -> TextHypernetworkConfig:
    settings: dict[str, Any] = {
        "modules": {"q_proj": (HIDDEN, 16), "v_proj": (HIDDEN, 16)},
        "layers": LAYERS,
        "embedding_size": HIDDEN,
        "rank": 4,
        "scaling": 2.0,
        "latent_size": 16,
        "head_size": 8,
    }
    return TextHypernetworkConfig(**(settings | changes))


def trained_text(config: TextHypernetworkConfig) -> TextToLora:
    """A hypernetwork all of whose parameters matter, as after training."""
    torch.manual_seed(0)
    hypernetwork = TextToLora(config).eval().requires_grad_(False)
    for parameter in hypernetwork.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return hypernetwork


def text_generator_folder(root: Path, base: Path | None = None, **changes: Any) -> Path:
    """A native generator folder ``text``; its base model, which reads its descriptions too, is
    ``base`` or a tiny random one beside it."""
    if base is None:
        base_model().save_pretrained(root / "base")
        tokenizer().save_pretrained(root / "base")
    config = TextGeneratorConfig(
        name="tiny-text",
        base_model="../base" if base is None else str(base),
        pooling="mean",
        max_description_tokens=48,
        hypernetwork=text_hypernetwork_config(**changes),
    )
    checkpoint.save(root / "text", config, trained_text(config.hypernetwork))
    return root / "text"


def random_batch(config: HypernetworkConfig, chunks: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``[B, streams, T, F]`` and a mask ``[B, T]`` of unequal lengths."""
    streams = config.layers if config.layer_to_layer else 1
    features = torch.randn(chunks, streams, 7, config.feature_size)
    lengths = torch.tensor([7, 4, 5, 1])[:chunks]
    return features, torch.arange(7) < lengths[:, None]
