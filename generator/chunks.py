"""Documents to chunks of token IDs, as the published Doc-to-LoRA cuts them."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from generator.checkpoint import read_config
from generator.prompt import PromptFormat

Chunk = tuple[int, ...]


class EmptyDocument(ValueError):
    """A document without any text."""

    def __init__(self) -> None:
        super().__init__("the document is empty or holds only white space")


class DocumentTooLong(ValueError):
    """A document of more tokens than the generator's chunks can hold."""

    def __init__(self, *, tokens: int, max_tokens: int, chunks: int, max_chunks: int) -> None:
        super().__init__(
            f"the document has {tokens} tokens ({chunks} chunks), "
            f"the limit is {max_tokens} tokens ({max_chunks} chunks)"
        )
        self.tokens = tokens
        self.max_tokens = max_tokens
        self.chunks = chunks
        self.max_chunks = max_chunks


class Chunker:
    """Cuts the text of a document into the chunks that one generator reads.

    Needs the tokenizer only, no model. Tokenising a long document takes a while and may run in a
    thread. Token counts include the prompt around the document.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptFormat,
        *,
        max_chunk_tokens: int,
        max_chunks: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self.max_chunk_tokens = max_chunk_tokens
        self.max_chunks = max_chunks

    @classmethod
    def from_folder(cls, folder: Path, max_chunk_tokens: int | None = None) -> "Chunker":
        """The chunker of a native generator folder, with its context encoder's tokenizer.

        ``max_chunk_tokens`` may shorten or lengthen the chunks. Raises InvalidGenerator.
        """
        config = read_config(folder)
        return cls(
            AutoTokenizer.from_pretrained(config.encoder_path),
            config.prompt,
            max_chunk_tokens=max_chunk_tokens or config.max_chunk_tokens,
            max_chunks=config.max_chunks,
        )

    @property
    def max_tokens(self) -> int:
        """Longest document, in tokens."""
        return self.max_chunk_tokens * self.max_chunks

    def split(self, text: str) -> tuple[Chunk, ...]:
        """Token IDs of each chunk, the prompt's affixes included.

        Raises EmptyDocument, DocumentTooLong.
        """
        text = text.strip()
        if not text:
            raise EmptyDocument
        ids = self._tokenized(text)
        if len(ids) > self.max_tokens:
            raise DocumentTooLong(
                tokens=len(ids),
                max_tokens=self.max_tokens,
                chunks=-(-len(ids) // self.max_chunk_tokens),
                max_chunks=self.max_chunks,
            )
        return split_ids(ids, self.max_chunk_tokens, self._prompt)

    def _tokenized(self, text: str) -> list[int]:
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "system", "content": ""}, {"role": "user", "content": text}],
            chat_template=self._prompt.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # verbose off: a document longer than the model's window is what chunks are for
        encoded = self._tokenizer(rendered, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids


def split_ids(ids: Sequence[int], max_chunk_tokens: int, prompt: PromptFormat) -> tuple[Chunk, ...]:
    """Cuts a rendered document into nearly equal chunks of at most ``max_chunk_tokens``.

    Chunks do not overlap. Where the cut takes a chunk's prompt away, the affix is put back, so a
    chunk may be longer than the limit by the affixes.
    """
    count = -(-len(ids) // max_chunk_tokens)
    length = -(-len(ids) // count)
    pieces = [tuple(ids[start : start + length]) for start in range(0, len(ids), length)]
    last = len(pieces) - 1
    return tuple(
        (prompt.context_prefix_ids if index > 0 else ())
        + piece
        + (prompt.context_suffix_ids if index < last else ())
        for index, piece in enumerate(pieces)
    )
