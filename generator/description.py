"""Descriptions of tasks: text to token IDs, to an embedding, to LoRA weights.

Source: Text-to-LoRA (arXiv 2506.06105) and its published code.

Shape suffixes: B descriptions, T tokens, E embedding size.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from generator.base_model import check_base
from generator.checkpoint import in_short, load_text
from generator.config import InvalidGenerator, Pooling, TextGeneratorConfig, read_text_config
from generator.hub import load_tokenizer, model_config
from generator.lora import InvalidLora, LoraWeights
from generator.padding import Chunk, padded, padded_shape
from generator.placement import Precision, placed
from generator.text_to_lora import TextToLora


class EmptyDescription(ValueError):
    """A description without any text."""

    def __init__(self) -> None:
        super().__init__(
            "the description is empty or holds only white space and control characters"
        )


class DescriptionTooLong(ValueError):
    """A description of more tokens than the generator reads."""

    def __init__(self, tokens: int, max_tokens: int) -> None:
        super().__init__(f"the description has {tokens} tokens, the limit is {max_tokens} tokens")
        self.tokens = tokens
        self.max_tokens = max_tokens


class DescriptionReader:
    """Turns a description into the one chunk of token IDs that its generator reads.

    Needs the tokenizer only, no model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TextGeneratorConfig) -> None:
        self._tokenizer = tokenizer
        self._prefix = config.description_prefix
        self._ids_of_nothing = self._ids("")
        self.max_tokens = config.max_description_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> "DescriptionReader":
        """The reader of a native generator folder. Raises InvalidGenerator."""
        config = read_text_config(folder)
        try:
            reader = cls(load_tokenizer(config.encoder_path), config)
            reader.split("text")
        except Exception as error:  # broken files raise whatever they happen to break
            reason = str(error).strip().partition("\n")[0]
            raise InvalidGenerator(
                f"the tokenizer of the description encoder {config.encoder_path} does not work: "
                f"{type(error).__name__}: {reason}"
            ) from error
        return reader

    def split(self, text: str) -> tuple[Chunk, ...]:
        """Token IDs of the description, special tokens included. As published, a full stop is put
        behind a letter at its end, unless a prefix makes it a query. Raises EmptyDescription,
        DescriptionTooLong.
        """
        text = text.strip()
        stop = "." if text[-1:].isalpha() and not self._prefix else ""
        ids = self._ids(text + stop)
        if ids == self._ids_of_nothing:
            raise EmptyDescription
        if len(ids) > self.max_tokens:
            raise DescriptionTooLong(len(ids), self.max_tokens)
        return (ids,)

    def _ids(self, text: str) -> tuple[int, ...]:
        # verbose off: the limit is checked here
        return tuple(self._tokenizer(self._prefix + text, verbose=False)["input_ids"])


class DescriptionEncoder(nn.Module):
    """Embeds descriptions: pooled last hidden states of a language model, of length sqrt(E)."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings ``[B, E]`` in float32 of ``ids [B, T]``, padded at the right where ``mask`` is
        false."""
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        match self.pooling:
            case "cls":
                pooled = states[:, 0]
            case "last_token":
                last = mask.sum(1).clamp_min(1) - 1
                pooled = states[torch.arange(len(ids), device=ids.device), last]
            case "mean":
                weights = mask[..., None] / mask.sum(1).clamp_min(1)[:, None, None]
                pooled = (states * weights).sum(1)
        embeddings: Tensor = functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
        return embeddings


class TextGenerator:
    """Description encoder and hypernetwork of one native generator folder."""

    def __init__(
        self,
        config: TextGeneratorConfig,
        encoder: DescriptionEncoder,
        hypernetwork: TextToLora,
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        self._encoder = encoder.to(device)
        self._hypernetwork = hypernetwork.to(device)

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", precision: Precision = "auto"
    ) -> "TextGenerator":
        """Loads the generator and its description encoder.

        ``device`` and ``precision`` as in ``placed``, of an encoder that is the base model; one of
        its own computes in float32, as published, and so does the hypernetwork. Raises
        InvalidGenerator, or OSError where a model cannot be found.
        """
        config, hypernetwork = load_text(folder)
        check_base(config)
        where, dtype = placed(device, precision)
        if config.description_encoder is not None:
            dtype = torch.float32
        model = _load_encoder(config.encoder_path, dtype)
        check_embedding_size(config, model.config.hidden_size)
        return cls(config, DescriptionEncoder(model, config.pooling), hypernetwork, where)

    def embed(self, chunks: Sequence[Chunk]) -> Tensor:
        """Embeddings ``[B, E]`` of descriptions by their token IDs. Raises InvalidChunk."""
        shape = padded_shape(chunks, self.config.max_description_tokens)
        ids, mask = padded(chunks, shape, self._encoder.model.config.vocab_size)
        with torch.inference_mode():
            embeddings: Tensor = self._encoder(ids.to(self.device), mask.to(self.device))
        return embeddings[: len(chunks)]

    def generate(self, chunks: Sequence[Chunk]) -> list[LoraWeights]:
        """The LoRA of each description, by its token IDs; in float32 on the CPU.

        Raises InvalidChunk.
        """
        with torch.inference_mode():
            factors = self._hypernetwork(self.embed(chunks))
        made: list[LoraWeights] = factors.each(len(chunks), self.config.hypernetwork.scaling)
        return made

    def combine(self, chunks: Sequence[LoraWeights]) -> LoraWeights:
        """A description is one chunk: its LoRA. Raises InvalidLora for more or none."""
        if len(chunks) != 1:
            raise InvalidLora(f"a description has one LoRA, not {len(chunks)}")
        return chunks[0]

    def padded_tokens(self, chunks: Sequence[Chunk]) -> int:
        """Tokens that a micro-batch of these descriptions computes, padding included."""
        rows, length = padded_shape(chunks, self.config.max_description_tokens)
        return rows * length


def check_embedding_size(config: TextGeneratorConfig, size: int) -> None:
    """The encoder's hidden size is what the hypernetwork reads. Raises InvalidGenerator."""
    if size != config.hypernetwork.embedding_size:
        raise InvalidGenerator(
            f"the description encoder's hidden size is {size}, "
            f"the hypernetwork reads embeddings of {config.hypernetwork.embedding_size}"
        )


def _load_encoder(path: str, dtype: torch.dtype) -> PreTrainedModel:
    config = model_config(path)
    # with a mask, capped scores (Gemma 2) exist in transformers' eager attention only
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model, report = AutoModel.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        attn_implementation="eager" if capped else None,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers; a pooler is not used here
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InvalidGenerator(f"the description encoder {path} lacks {in_short(missing)}")
    encoder: PreTrainedModel = model.eval().requires_grad_(False)
    return encoder
