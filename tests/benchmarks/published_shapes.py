"""Doc-to-LoRA generators at the published shapes, with random weights: nothing is downloaded.

Time and memory depend neither on training nor on the size of the vocabulary: the context encoder
looks tokens up and has no head. So vocabularies are small here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModel, Gemma2Config, MistralConfig, PreTrainedConfig, Qwen3Config

from generator.chunks import Chunk, cut_ids, even_cuts
from generator.config import DocGeneratorConfig
from generator.context import ContextEncoder
from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.document import DocumentGenerator, Mode
from generator.importing.doc_to_lora import CHUNK_TOKENS, MAX_CHUNKS
from generator.importing.families import GEMMA_2, MISTRAL, QWEN_3, Family
from generator.soft_capping import causal_attention

VOCABULARY = 1000
CHUNK = CHUNK_TOKENS["per_layer_activations"]
# the published 309 M parameters for gemma-2-2b; the released scripts say 9, which makes 315 M
BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Base:
    """A base model's family and shapes; ``sizes`` are its transformers configuration's."""

    family: Family
    configuration: Callable[..., PreTrainedConfig]
    sizes: dict[str, Any]

    def config(self, layers: int | None = None) -> PreTrainedConfig:
        """Its configuration with so many layers; None for all."""
        reduced = {} if layers is None else {"num_hidden_layers": layers}
        return self.configuration(vocab_size=VOCABULARY, **(self.sizes | reduced))


BASES = {
    "gemma-2-2b": Base(
        GEMMA_2,
        Gemma2Config,
        {
            "hidden_size": 2304,
            "num_hidden_layers": 26,
            "intermediate_size": 9216,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
    ),
    "Mistral-7B": Base(
        MISTRAL,
        MistralConfig,
        {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "sliding_window": None,
        },
    ),
    "Qwen3-4B": Base(
        QWEN_3,
        Qwen3Config,
        {
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "intermediate_size": 9728,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    ),
}


def hypernetwork_config(config: PreTrainedConfig, blocks: int = BLOCKS) -> HypernetworkConfig:
    """The published main recipe, for a base model of this configuration."""
    return HypernetworkConfig(
        modules={"down_proj": (config.intermediate_size, config.hidden_size)},
        layers=config.num_hidden_layers,
        feature_size=config.hidden_size,
        blocks=blocks,
    )


def parameters(config: HypernetworkConfig) -> int:
    """Parameters of a hypernetwork, without making one."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DocToLora(config).parameters())


class RandomGenerator:
    """A generator with weights made on the spot, on its device and in its precision.

    ``config`` is the context encoder's; ``in_mode`` gives the product's generators, which share
    these weights.
    """

    def __init__(
        self,
        base: Base,
        *,
        layers: int | None,
        blocks: int,
        chunk_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = base.config(layers)
        self.dtype = dtype
        self._device = device
        self._described = DocGeneratorConfig(
            name="random",
            base_model="random",
            prompt=replace(
                base.family.prompt,
                context_prefix_ids=_small(base.family.prompt.context_prefix_ids),
                context_suffix_ids=_small(base.family.prompt.context_suffix_ids),
            ),
            max_chunk_tokens=chunk_tokens,
            max_chunks=MAX_CHUNKS,
            hypernetwork=hypernetwork_config(self.config, blocks),
        )
        with device:
            self._hypernetwork = DocToLora(self._described.hypernetwork)
            decoder = AutoModel.from_config(
                self.config, dtype=dtype, attn_implementation=causal_attention(self.config)
            )
        self._hypernetwork.eval().requires_grad_(False)
        decoder.eval().requires_grad_(False)
        self._encoder = ContextEncoder(decoder, self._described.hypernetwork)

    def in_mode(self, mode: Mode) -> DocumentGenerator:
        return DocumentGenerator(
            self._described,
            self._encoder,
            self._hypernetwork,
            vocabulary=VOCABULARY,
            device=self._device,
            dtype=self.dtype,
            mode=mode,
        )

    def chunks(self, tokens: int) -> tuple[Chunk, ...]:
        """A random document of so many tokens, cut as the product cuts."""
        ids = torch.randint(VOCABULARY, (tokens,)).tolist()
        described = self._described
        return cut_ids(ids, even_cuts(tokens, described.max_chunk_tokens), described.prompt)


def _small(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(number % VOCABULARY for number in ids)
