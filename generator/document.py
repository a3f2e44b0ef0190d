"""One generator in one process: chunks of token IDs in, LoRA weights out.

Shape suffixes: B chunks of a micro-batch, T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from generator.base_model import check_base
from generator.checkpoint import load_doc
from generator.config import DocGeneratorConfig
from generator.context import ContextEncoder
from generator.doc_to_lora import DocToLora
from generator.hub import model_config
from generator.lora import LoraWeights, combine
from generator.microbatch import MicroBatches
from generator.padding import Chunk, padded, padded_shape
from generator.placement import Precision, placed
from generator.soft_capping import causal_attention

Mode = Literal["batched", "iterative"]


class DocumentGenerator:
    """Context encoder and hypernetwork of one native generator folder.

    ``batched`` mode takes the projected features of all base layers through the aggregator at once;
    ``iterative`` mode takes them layer by layer, with equal results in less memory.
    """

    def __init__(
        self,
        config: DocGeneratorConfig,
        encoder: ContextEncoder,
        hypernetwork: DocToLora,
        *,
        vocabulary: int,
        device: torch.device,
        dtype: torch.dtype,
        mode: Mode,
    ) -> None:
        self.config = config
        self.device = device
        self._encoder = encoder.to(device)
        self._hypernetwork = hypernetwork.to(device)
        self._vocabulary = vocabulary
        self._dtype = dtype
        if dtype == torch.bfloat16:
            hypernetwork.store_products_as(dtype)
        self._mode = mode
        bias = hypernetwork.bias()
        self._bias = None if bias is None else bias.weights(hypernetwork.config.scaling)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        mode: Mode = "batched",
    ) -> "DocumentGenerator":
        """Loads the generator and its context encoder.

        ``device`` is "auto" (a GPU if there is one) or what torch takes; ``precision`` is that of
        encoder and aggregator, by default bfloat16 on a GPU and float32 on a CPU. Raises
        InvalidGenerator, EncoderMismatch, or OSError where a model cannot be found.
        """
        config, hypernetwork = load_doc(folder)
        check_base(config)
        where, dtype = placed(device, precision)
        model = _load_decoder(config.encoder_path, dtype)
        return cls(
            config,
            ContextEncoder(model, config.hypernetwork),
            hypernetwork,
            vocabulary=model.config.vocab_size,
            device=where,
            dtype=dtype,
            mode=mode,
        )

    def generate(self, chunks: Sequence[Chunk]) -> list[LoraWeights]:
        """The LoRA of each chunk, computed as one micro-batch; in float32 on the CPU.

        The chunks may belong to different documents. Raises InvalidChunk.
        """
        ids, mask = self._padded(chunks)
        with torch.inference_mode(), self._autocast():
            if self._mode == "batched":
                factors = self._hypernetwork.from_contexts(self._contexts(ids), mask)
            else:
                factors = self._hypernetwork.factors(self._aggregate_by_layer(ids, mask))
        made: list[LoraWeights] = factors.each(len(chunks), self.config.hypernetwork.scaling)
        return made

    def combine(self, chunks: Sequence[LoraWeights]) -> LoraWeights:
        """The LoRA of a document from those of its chunks, in order."""
        return combine(chunks, self._bias)

    def internalise(
        self, documents: Iterable[Sequence[Chunk]], max_batch_tokens: int = 4096
    ) -> Iterator[LoraWeights]:
        """The LoRA of each document, its chunks in micro-batches of at most ``max_batch_tokens``
        after padding (one chunk may be longer). Raises InvalidChunk."""
        for chunks in documents:
            waiting = MicroBatches[None](max_batch_tokens, self.padded_tokens)
            waiting.add(None, chunks)
            parts: list[LoraWeights] = []
            while waiting:
                parts += self.generate([chunk for _, chunk in waiting.next()])
            yield self.combine(parts)

    def padded_tokens(self, chunks: Sequence[Chunk]) -> int:
        """Tokens that a micro-batch of these chunks computes, padding included."""
        rows, length = padded_shape(chunks, self.config.max_padded_chunk)
        return rows * length

    def _padded(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        shape = padded_shape(chunks, self.config.max_padded_chunk)
        ids, mask = padded(chunks, shape, self._vocabulary)
        return ids.to(self.device), mask.to(self.device)

    def _contexts(self, ids: Tensor) -> Tensor:
        contexts: list[Tensor] = []
        self._encoder.visit(
            ids, lambda _, features: contexts.append(self._hypernetwork.read(features))
        )
        return torch.stack(contexts, 1)

    def _aggregate_by_layer(self, ids: Tensor, mask: Tensor) -> Tensor:
        vectors: list[Tensor] = []
        self._encoder.visit(
            ids,
            lambda _, features: vectors.append(self._hypernetwork.aggregate(features, mask)),
        )
        return torch.stack(vectors, 1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16
        )


def _load_decoder(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The decoder; the language model head is let go."""
    config = model_config(path)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        attn_implementation=causal_attention(config),
        trust_remote_code=False,
    )
    return model.get_decoder().eval().requires_grad_(False)
