"""Operations that the equations of a Doc-to-LoRA generator need, counted from its shapes.

Floating-point operations of matrix products, two for each multiply-add; what is done element by
element is left out, so a time derived from these counts is a floor. T tokens of one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedConfig

from generator.doc_to_lora import HypernetworkConfig

# tokens and the sliding window, if there is one -> pairs of a query and a key that it sees
Pairs = Callable[[int, int | None], int]


@dataclass(frozen=True, slots=True)
class Operations:
    """``reading``: context encoder and aggregator, in the generator's precision; ``writing``: from
    the aggregator's vectors to the factors, in float32."""

    reading: int
    writing: int

    @property
    def total(self) -> int:
        return self.reading + self.writing


def causal_pairs(tokens: int, window: int | None) -> int:
    """Every token sees itself and those before it, within its window."""
    seen = tokens if window is None else min(window, tokens)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def operations(
    encoder: PreTrainedConfig,
    hypernetwork: HypernetworkConfig,
    chunks: list[int],
    pairs: Pairs = causal_pairs,
) -> Operations:
    """For chunks of so many tokens each; features of every layer, as in the main recipe."""
    reading = sum(
        encoder_operations(encoder, hypernetwork.layers - 1, tokens, pairs)
        + hypernetwork.layers * aggregator_operations(hypernetwork, tokens)
        for tokens in chunks
    )
    return Operations(reading, len(chunks) * head_operations(hypernetwork))


def encoder_operations(
    config: PreTrainedConfig, layers: int, tokens: int, pairs: Pairs = causal_pairs
) -> int:
    """The first ``layers`` layers of a decoder with grouped attention and a gated MLP."""
    query = config.num_attention_heads * config.head_dim
    key_value = config.num_key_value_heads * config.head_dim
    weights: int = config.hidden_size * (2 * query + 2 * key_value + 3 * config.intermediate_size)
    attention: int = sum(4 * query * pairs(tokens, window) for window in _windows(config)[:layers])
    return 2 * tokens * weights * layers + attention


def _windows(config: PreTrainedConfig) -> list[int | None]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def aggregator_operations(config: HypernetworkConfig, tokens: int) -> int:
    """One stream of features to its vectors."""
    D, F, hidden = config.latent_size, config.feature_size, config.mlp_ratio * config.feature_size
    outputs = len(config.modules) * config.rank * (1 if config.layer_to_layer else config.layers)
    projection = 2 * tokens * (2 * F * hidden + hidden * D)
    cross = _perceiver_layer(config, config.latents, tokens)
    within = _perceiver_layer(config, config.latents, config.latents)
    decoder = _perceiver_layer(config, outputs, config.latents)
    return projection + config.blocks * (cross + config.self_attention_per_block * within) + decoder


def _perceiver_layer(config: HypernetworkConfig, queries: int, context: int) -> int:
    D = config.latent_size
    query, key_value = config.heads * config.head_dim, config.kv_heads * config.head_dim
    mlp = 3 * D * config.mlp_ratio * D
    return (
        2 * queries * (2 * D * query + mlp)
        + 2 * context * 2 * D * key_value
        + 4 * queries * context * query
    )


def head_operations(config: HypernetworkConfig) -> int:
    """The vectors of one chunk to its factors."""
    rows, D = config.layers * len(config.modules) * config.rank, config.latent_size
    block = 2 * D * config.mlp_ratio * D
    return 2 * rows * (config.pre_head_layers * block + D * config.head_width)
