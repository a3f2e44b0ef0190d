"""One generator in one process: chunks of token IDs in, LoRA weights out.

Shape suffixes: B chunks of a micro-batch, T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from generator.base_model import check_base
from generator.checkpoint import GeneratorConfig, load
from generator.context import ContextEncoder
from generator.doc_to_lora import DocToLora, Factors, HypernetworkConfig
from generator.lora import LoraWeights, combine
from generator.microbatch import MicroBatches

Chunk = Sequence[int]
Mode = Literal["batched", "iterative"]
Precision = Literal["auto", "float32", "bfloat16"]


class InvalidChunk(ValueError):
    """A chunk that the context encoder cannot read."""


class DocumentGenerator:
    """Context encoder and hypernetwork of one native generator folder.

    ``batched`` mode reads the features of all base layers at once; ``iterative`` mode takes them
    layer by layer through the aggregator, with equal results in a fraction of the memory.
    """

    def __init__(
        self,
        config: GeneratorConfig,
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
        self._mode = mode
        bias = hypernetwork.bias()
        self._bias = None if bias is None else _weights(bias, hypernetwork.config)

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
        config, hypernetwork = load(folder)
        check_base(config)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if precision == "auto":
            precision = "float32" if torch.device(device).type == "cpu" else "bfloat16"
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        model = _load_decoder(config.encoder_path, dtype)
        return cls(
            config,
            ContextEncoder(model, config.hypernetwork),
            hypernetwork,
            vocabulary=model.config.vocab_size,
            device=torch.device(device),
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
                factors = self._hypernetwork(self._encoder(ids), mask)
            else:
                factors = self._hypernetwork.factors(self._aggregate_by_layer(ids, mask))
        A = {m: x.cpu() for m, x in factors.A.items()}
        B = {m: x.cpu() for m, x in factors.B.items()}
        return [
            LoraWeights(
                {m: x[index].clone() for m, x in A.items()},
                {m: x[index].clone() for m, x in B.items()},
                self.config.hypernetwork.scaling,
            )
            for index in range(len(chunks))
        ]

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
        rows, length = self._padded_shape(chunks)
        return rows * length

    def _padded_shape(self, chunks: Sequence[Chunk]) -> tuple[int, int]:
        longest = max(map(len, chunks))
        length = size_class(longest)
        if longest <= self.config.max_padded_chunk:
            length = min(length, self.config.max_padded_chunk)
        return size_class(len(chunks)), length

    def _padded(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """IDs and mask ``[B, T]``, padded at the right and with empty rows at the end."""
        ids = torch.zeros(self._padded_shape(chunks), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, chunk in enumerate(chunks):
            if not chunk:
                raise InvalidChunk(f"chunk {row} is empty")
            # checked here: an index out of range on a GPU ends the process
            if min(chunk) < 0 or max(chunk) >= self._vocabulary:
                raise InvalidChunk(
                    f"chunk {row} holds token IDs from {min(chunk)} to {max(chunk)}, "
                    f"the context encoder has 0 to {self._vocabulary - 1}"
                )
            ids[row, : len(chunk)] = torch.tensor(chunk)
            mask[row, : len(chunk)] = True
        return ids.to(self.device), mask.to(self.device)

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


def size_class(count: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below ``count``.

    Padding to these sizes wastes less than a third and keeps the number of distinct shapes, for
    each of which the backends build and keep kernels, logarithmic.
    """
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def _weights(factors: Factors, config: HypernetworkConfig) -> LoraWeights:
    return LoraWeights(
        {m: x.detach().float().cpu() for m, x in factors.A.items()},
        {m: x.detach().float().cpu() for m, x in factors.B.items()},
        config.scaling,
    )


def _load_decoder(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The decoder; the language model head is let go."""
    config = AutoConfig.from_pretrained(path)
    # soft-capped attention scores (Gemma 2) exist in transformers' eager attention only
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=dtype, attn_implementation="eager" if capped else "sdpa"
    )
    return model.get_decoder().eval().requires_grad_(False)
